"""Opens the images of a shift as batches.

One decoder reads the images of all shifts, whatever loader trained the network, so that differences come from
the shift alone. Corrupted copies of small images are written once; large images are corrupted on their way to
the network, by the processes that decode them.
"""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from suite.data.corruptions import check_possible, corrupted
from suite.data.idx import read_array, write_split
from suite.data.index import ImageIndex, scan, scan_idx, spread
from suite.data.plan import EvalShare
from suite.data.shift_classes import ClassMatch, match_classes
from suite.data.shifts import Shift
from suite.data.sources import default_root, published
from suite.experiment import DataSpec
from suite.files import NoLocks, locked
from suite.specs.loader_table import LOADERS
from suite.specs.robustness import Order
from suite.specs.source_table import SOURCES

if TYPE_CHECKING:
    import torch

    from suite.data import Loader

# Part of the names of corrupted copies: raise it when their pixels change.
COPY_VERSION = 1


@dataclass(frozen=True)
class ShiftedImages:
    """The images of a shift as batches, which can be read repeatedly.

    `outputs_K`: the network's outputs that the shift has classes for; None: all of them.
    """

    loader: "Loader"
    outputs_K: Sequence[int] | None


def open_shift(
    shift: Shift,
    data: DataSpec,
    *,
    images_per_batch: int,
    device: "torch.device",
    num_images: int | None = None,
    order: Order = "mixed",
    seed: int = 0,
    num_channels: int = 3,
    num_workers: int = 2,
    timeout_s: float = 600.0,
    rank: int = 0,
    world_size: int = 1,
    only: Sequence[int] | None = None,
) -> ShiftedImages:
    """Open the images of a shift of `data`'s validation set.

    `num_images`: so many, evenly spaced over the classes; None: all. `order`: mixed by `seed`, or by label.
    `only`: the images of these classes of the network.
    Images and corruption depend on neither the batches nor the ranks. Raises UserError for a corruption that
    the images do not allow, missing files, and classes that do not fit; see `match_classes`.
    """
    is_idx = not LOADERS[data.loader].crops
    if shift.kind == "corruption":
        check_possible(shift.name, is_grey=is_grey(data))
    index, spec, outputs_K = _index_of(shift, data, num_images, is_idx)
    if only is not None:
        index, outputs_K = index.take(np.flatnonzero(np.isin(index.labels_N, list(only)))), only
    if order == "mixed":
        index = index.take(np.random.default_rng(seed).permutation(len(index)))
    share = EvalShare(index, images_per_batch, rank, world_size)
    loader: Loader
    if shift.kind == "array":
        from suite.data.arrays import ArrayLoader

        loader = ArrayLoader(share, spec, device=device)
    elif is_idx and shift.kind != "folder":
        from suite.data.memory import MemoryLoader

        loader = MemoryLoader(share, spec, num_channels=num_channels, device=device)
    else:
        from suite.data.alter import Alter
        from suite.data.vision import VisionLoader

        alter = None
        if shift.kind == "corruption":
            assert shift.severity is not None
            alter = Alter(shift.name, shift.severity)
        loader = VisionLoader(
            share, spec, num_workers=num_workers, timeout_s=timeout_s, device=device, alter=alter
        )
    return ShiftedImages(loader, outputs_K)


def is_grey(data: DataSpec) -> bool:
    """Return whether the images of a data set are grey, as far as it is known."""
    source = SOURCES.get(data.name)
    return not LOADERS[data.loader].crops or (source is not None and source.is_grey)


def _index_of(
    shift: Shift, data: DataSpec, num_images: int | None, is_idx: bool
) -> tuple[ImageIndex, DataSpec, Sequence[int] | None]:
    """Return the images by class, how they become the network's input, and the outputs of their classes."""
    from suite.data import split_index

    clean = split_index(data, "val")
    if shift.kind in ("folder", "array"):
        assert shift.place is not None
        index, match = _of_array(shift, clean) if shift.kind == "array" else _of_folder(shift.place, clean)
        index = index if num_images is None or num_images >= len(index) else spread(index, num_images)
        # Released images of ImageNet-C are cropped already; resizing them would blur the corruption.
        is_cropped = shift.severity is not None
        changes = {"eval_resize": data.image_size} if is_cropped else {}
        spec = data.model_copy(update=changes)
        return index, spec, sorted(match.output_of_class_K.tolist()) if match.is_subset else None
    if num_images is not None and num_images < len(clean):
        clean = spread(clean, num_images)
    if shift.kind == "corruption" and is_idx:
        assert shift.severity is not None
        spec = data.model_copy(update={"path": str(corrupted_copy(data, clean, shift.name, shift.severity))})
        return scan_idx(Path(str(spec.path)), "val"), spec, None
    return clean, data, None


def _of_folder(folder: Path, clean: ImageIndex) -> tuple[ImageIndex, ClassMatch]:
    index = scan(folder.parent, folder.name)
    match = match_classes(index.classes, clean.classes, folder)
    return replace(index, labels_N=match.output_of_class_K[index.labels_N]), match


def _of_array(shift: Shift, clean: ImageIndex) -> tuple[ImageIndex, ClassMatch]:
    """The labels of an array are the network's outputs."""
    from suite.data.arrays import array_index

    assert shift.place is not None
    index = array_index(shift.place, shift.block, shift.num_blocks)
    outputs = tuple(str(place) for place in range(len(clean.classes)))
    return index, match_classes(index.classes, outputs, shift.place)


def corrupted_copy(data: DataSpec, index: ImageIndex, name: str, severity: int) -> Path:
    """Return the folder of a corrupted copy of IDX images, written once for all networks.

    `index`: the images, whose numbers in the file are the keys of their corruption. The folder appears
    complete or not at all. Raises UserError as `corrupted` does, and when it cannot be written.
    """
    numbers_N = index.names_N.astype(np.int64)
    pixels_NHW = read_array(index.folder)[numbers_N]
    content = hashlib.sha256(pixels_NHW.tobytes() + numbers_N.tobytes() + index.labels_N.tobytes())
    digest = f"{COPY_VERSION}-{content.hexdigest()[:12]}"
    folder = default_root() / "corrupted" / f"{data.name}-{digest}" / f"{name}-{severity}"

    if folder.is_dir():
        return folder

    def write(draft: Path) -> Path:
        copies = [
            corrupted(image_HW, name, severity, str(number))
            for image_HW, number in zip(pixels_NHW, numbers_N, strict=True)
        ]
        target = draft / "copy"
        target.mkdir()
        write_split(target, "val", np.stack(copies), index.labels_N.astype(np.uint8))
        return target

    folder.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(NoLocks):  # without locks two processes may write it, and one is in vain
            stack.enter_context(locked(folder.parent / f".{folder.name}.lock", wait=True))
        return published(folder, write)
