"""Writes packs: in parallel, and so that a second start continues where the first was stopped.

The pack grows in a hidden folder beside its place, and is renamed when it is whole. A data file is complete
when its rows are beside it, which are written when the data are on the disk. When writing is continued, a
complete file's images are compared with their checksums, and their sources with what they were.
"""

import errno
import hashlib
import io
import itertools
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from suite.data.image_shape import image_shape
from suite.data.index import check_classes, scan
from suite.data.pack_sources import ImageSource, LooseFiles
from suite.data.packed import DataFiles, OnProgress, Packed, check_images, row_type
from suite.data.packs import SPLITS, DataFile, Pack, PackedSplit, is_pack, open_pack, write_manifest
from suite.errors import UserError
from suite.files import NoLocks, locked, publish_folder, read_json, read_whole, write_atomically

IMAGES_PER_FILE = 8192
"""Close to 1 GB of ImageNet's."""
# More than cores: on a network's file system most threads wait.
THREADS_PER_CORE, MAX_THREADS = 4, 32

log = logging.getLogger("shiftbench")


@dataclass(frozen=True)
class _Part:
    """The images of a split that become one data file: those from `first` to before `end`."""

    split: str
    number: int
    source: ImageSource
    first: int
    end: int
    name_bytes: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


def pack_folder(
    folder: Path, out: Path, *, images_per_file: int = IMAGES_PER_FILE, on_progress: OnProgress | None = None
) -> Pack:
    """Pack the images of `folder`, which holds train/CLASS/*.jpg, val/CLASS/*.jpg or both.

    Raises UserError as `scan` and `write_pack` do, and for splits of different classes.
    """
    return write_pack(*sources_of(folder), out, images_per_file=images_per_file, on_progress=on_progress)


def sources_of(folder: Path) -> tuple[dict[str, ImageSource], tuple[str, ...]]:
    """Return the images of a folder's splits, and their classes. Raises UserError as `pack_folder` does."""
    if is_pack(folder):
        raise UserError(f"{folder}: is a pack already")
    found = [split for split in SPLITS if (folder / split).is_dir()]
    indexes = {split: scan(folder, split) for split in found or SPLITS[:1]}
    check_classes(indexes[found[0]], found[-1])
    return {split: LooseFiles.of_index(index) for split, index in indexes.items()}, indexes[found[0]].classes


def write_pack(
    sources: Mapping[str, ImageSource],
    classes: tuple[str, ...],
    out: Path,
    *,
    images_per_file: int = IMAGES_PER_FILE,
    on_progress: OnProgress | None = None,
) -> Pack:
    """Write the images of each split as a pack at `out`, which appears complete or not at all.

    Raises UserError for a place that is taken, full or cannot be written, for images that cannot be read,
    for two of one name, for a class without images, and for the rest of an attempt to pack other images.
    """
    _check_names(sources, classes)
    if out.exists():
        raise UserError(f"{out}: exists; name a new folder")
    draft = out.with_name(f".{out.name}.packing")
    pack, rows_folder = draft / "pack", draft / "rows"
    parts = [part for split, source in sources.items() for part in _parts(split, source, images_per_file)]
    with ExitStack() as stack:
        try:
            for one in (pack, rows_folder):
                one.mkdir(parents=True, exist_ok=True)
            with suppress(NoLocks):  # without locks it is the user who must not start two
                stack.enter_context(locked(draft / "lock", wait=False))
            _check_plan(draft, sources, classes, images_per_file)
            _write_parts(parts, draft, on_progress or (lambda images, num_bytes: None))
            splits = {split: _finish(split, parts, draft) for split in sources}
            write_manifest(pack, classes, splits)
            if not publish_folder(pack, out):
                raise UserError(f"{out}: exists; name a new folder")
            # On NFS, the lock that is still open keeps the draft's folder.
            shutil.rmtree(draft, ignore_errors=True)
        except BlockingIOError:
            raise UserError(f"{out}: another process is packing there") from None
        except OSError as error:
            raise UserError(_disk_fault(error, out, rows_folder, len(parts))) from None
    return open_pack(out)


def _parts(split: str, source: ImageSource, images_per_file: int) -> Iterator[_Part]:
    count, name_bytes = len(source.names), len(split) + 1 + max(map(len, source.names))
    for number, first in enumerate(range(0, count, images_per_file)):
        yield _Part(split, number, source, first, min(first + images_per_file, count), name_bytes)


def _check_names(sources: Mapping[str, ImageSource], classes: tuple[str, ...]) -> None:
    for split, source in sources.items():
        counts_C = np.bincount(source.labels_N, minlength=len(classes))
        if not counts_C.all():
            raise UserError(f"{split}: the class {classes[counts_C.argmin()]} has no images")
        if len(set(source.names)) < len(source.names):
            in_order = sorted(source.names)
            twice = next(a for a, b in itertools.pairwise(in_order) if a == b)
            raise UserError(f"{split}: two images are called {os.fsdecode(twice)}")


def _check_plan(
    draft: Path, sources: Mapping[str, ImageSource], classes: tuple[str, ...], images_per_file: int
) -> None:
    """Note what is packed. Raises UserError if an attempt to pack something else was begun there."""
    plan = {"classes": list(classes), "images_per_file": images_per_file}
    plan["images"] = {split: source.fingerprint() for split, source in sources.items()}
    begun = read_json(draft / "plan.json")
    if begun is None:
        write_atomically(draft / "plan.json", orjson.dumps(plan), durable=False)
    elif begun != plan:
        raise UserError(
            f"{draft}: is the rest of an attempt to pack other images, or with other settings: remove it, or "
            "name another folder"
        )


# ------------------------------------------------------------ data files


def _write_parts(parts: list[_Part], draft: Path, on_progress: OnProgress) -> None:
    """Write all data files that are not complete."""
    stop = threading.Event()
    workers = min(MAX_THREADS, THREADS_PER_CORE * len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers, thread_name_prefix="pack") as threads:
        try:
            done = [threads.submit(_write_part, part, draft, stop, on_progress) for part in parts]
            for one in as_completed(done):
                one.result()
        except BaseException:
            stop.set()
            threads.shutdown(cancel_futures=True)
            raise


def _write_part(part: _Part, draft: Path, stop: threading.Event, on_progress: OnProgress) -> None:
    path = draft / "pack" / f"{part.name}.data"
    rows_path, state_path = (draft / "rows" / f"{part.name}.{end}" for end in ("npy", "state"))
    state = part.source.state(part.first, part.end)
    if rows_path.exists():
        # Files of a former attempt, which may have ended with the machine, so that any may be cut short.
        with suppress(UserError, EOFError, ValueError):
            alone_N = np.load(rows_path)
            alone_N["file"] = 0
            if read_whole(state_path) == state.encode():
                check_images(Packed(DataFiles([path]), alone_N), on_progress)
                return
        rows_path.unlink()
    rows_N = np.zeros(part.end - part.first, row_type(part.name_bytes))
    offset = 0
    with path.open("wb", buffering=0) as file:
        for row, content in enumerate(part.source.contents(part.first, part.end)):
            if stop.is_set():
                return
            _write_all(file.fileno(), content, path)
            image = part.first + row
            name, label = part.split.encode() + b"/" + part.source.names[image], part.source.labels_N[image]
            place = (name, label, part.number, offset, len(content))
            rows_N[row] = (*place, *image_shape(content), zlib.crc32(content))
            offset += len(content)
            on_progress(1, len(content))
        os.fsync(file.fileno())
    write_atomically(state_path, state, durable=False)
    write_atomically(rows_path, _as_file(rows_N))


def _as_file(rows_N: NDArray[np.void]) -> memoryview:
    content = io.BytesIO()
    np.save(content, rows_N)
    return content.getbuffer()


def _write_all(descriptor: int, content: bytes, path: Path) -> None:
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError as error:
        error.filename = str(path)
        raise


def _disk_fault(error: OSError, out: Path, rows: Path, num_files: int) -> str:
    where = os.fsdecode(error.filename) if error.filename else str(out)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{where}: cannot be written: {error.strerror}"
    complete = len(list(rows.glob("*.npy")))
    kept = f"{complete} of {num_files} data files are complete, and the same command continues behind them"
    return f"{where}: {error.strerror}: {kept}"


# ------------------------------------------------------------ index


def _finish(split: str, parts: list[_Part], draft: Path) -> PackedSplit:
    """Write a split's index, in the order of `scan`."""
    mine = [part for part in parts if part.split == split]
    rows_N = np.concatenate([np.load(draft / "rows" / f"{part.name}.npy") for part in mine])
    # By class, then by the folder below it, then by name.
    keys = [
        (label, *os.path.split(name))
        for label, name in zip(rows_N["label"].tolist(), rows_N["name"], strict=True)
    ]
    rows_N = rows_N[sorted(range(len(rows_N)), key=keys.__getitem__)]
    if (strange := rows_N[rows_N["height"] == 0]).size:
        log.warning(
            "%s: %d of %d files are no images and are packed as they are, the first being %s",
            *(split, len(strange), len(rows_N), os.fsdecode(strange[0]["name"])),
        )
    path = draft / "pack" / f"{split}.npy"
    content = _as_file(rows_N)
    write_atomically(path, content)
    names = [f"{part.name}.data" for part in mine]
    files = tuple(DataFile(name, (draft / "pack" / name).stat().st_size) for name in names)
    digest = hashlib.sha256(content).hexdigest()
    return PackedSplit(len(rows_N), path.name, len(content), digest, files)
