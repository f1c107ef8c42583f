"""Images: a plan that says which, in what order and cropped how, and the loaders that carry it out.

Torch and DALI are imported by the functions that make loaders, so that all others answer at once.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np

from suite.architectures import input_channels
from suite.data.index import ImageIndex, check_classes, scan, scan_idx, spread
from suite.data.loader import Batch, Loader
from suite.data.plan import EvalShare, Share, TrainPlan, TrainShare
from suite.data.sizes import synthetic_images
from suite.data.sources import dataset_folder, idx_folder, prepare
from suite.errors import UserError
from suite.experiment import DataSpec, Run

if TYPE_CHECKING:
    import torch

__all__ = [
    "Batch",
    "Loader",
    "check_data",
    "dataset_folder",
    "folder_loader",
    "idx_folder",
    "prepare",
    "split_size",
    "steps_per_epoch",
    "train_images_loader",
    "train_loader",
    "val_loader",
]


def check_data(run: Run) -> None:
    """Refuse, before training starts, data that training or validation would refuse later.

    Opens no image. Raises UserError as `steps_per_epoch` does, and for a split that is missing, has an
    empty class folder, other classes than the other split or another number of them, or fewer images
    than `val_images`.
    """
    steps_per_epoch(run)
    if run.data.name != "synthetic":
        _index(run.data, "val", run.data.val_images)


def steps_per_epoch(run: Run) -> int:
    """Optimizer steps in one pass over the training images; what is left over is dropped.

    Raises UserError for a data set that is missing, empty, of another number of classes, or too small.
    """
    if run.data.name == "synthetic":
        return max(1, synthetic_images(run.data, "train") // run.batch.global_batch_size)
    return TrainPlan(_index(run.data, "train"), run).steps_per_epoch


def train_loader(run: Run, *, start_step: int, rank: int, world_size: int, device: "torch.device") -> Loader:
    """This rank's micro-batches of `batch_size_per_gpu` images, without end, across epochs.

    They come step by step from optimizer step `start_step` (counted over all epochs) on, and within a step
    by micro-batch. What a step sees depends on the run's seed alone: not on where the run was resumed, the
    number of ranks, or the loader. Raises UserError as `steps_per_epoch` does.
    """
    per_gpu = run.batch.per_gpu
    if run.data.name == "synthetic":
        from suite.data.synthetic import SyntheticLoader

        first = start_step * run.batch.accumulation_steps(world_size)
        return SyntheticLoader(
            run.data, seed=run.seed + rank, images_per_batch=per_gpu, device=device, first=first
        )
    plan = TrainPlan(_index(run.data, "train"), run)
    share = TrainShare(plan, per_gpu, start_step=start_step, rank=rank, world_size=world_size)
    return _loader(share, run.data, run.system.data_threads, device, input_channels(run.model.arch))


def val_loader(
    run: Run, *, images_per_batch: int, rank: int, world_size: int, device: "torch.device"
) -> Loader:
    """This rank's share of the validation images, centrally cropped: over all ranks, each exactly once.

    Shares differ by at most one image, so some ranks may have a batch less, or none at all.
    """
    return folder_loader(
        run.data,
        "val",
        images_per_batch=images_per_batch,
        device=device,
        num_images=run.data.val_images,
        data_threads=run.system.data_threads,
        rank=rank,
        world_size=world_size,
        num_channels=input_channels(run.model.arch),
    )


def train_images_loader(
    run: Run, *, images_per_batch: int, rank: int, world_size: int, device: "torch.device"
) -> Loader:
    """This rank's share of the images that the run trains on, centrally cropped, each once over all ranks."""
    if run.data.name == "synthetic":
        return folder_loader(
            run.data,
            "train",
            images_per_batch=images_per_batch,
            device=device,
            rank=rank,
            world_size=world_size,
        )
    index = TrainPlan(_index(run.data, "train"), run).index
    share = EvalShare(index, images_per_batch, rank, world_size)
    return _loader(share, run.data, run.system.data_threads, device, input_channels(run.model.arch))


def folder_loader(
    data: DataSpec,
    split: Literal["train", "val"],
    *,
    images_per_batch: int,
    device: "torch.device",
    num_images: int | None = None,
    data_threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    num_channels: int = 3,
    shuffle_seed: int | None = None,
) -> Loader:
    """One pass over a split, centrally cropped, each image once over all ranks.

    `num_images`: only so many, at equal distances, so that each class keeps its share; None: all. They come
    class by class, or with a `shuffle_seed` in an order drawn from it, as batch statistics need.
    `num_channels`: 1 lets the loader spare itself what a network does not read; see `Batch`.
    """
    if data.name == "synthetic":
        from suite.data.synthetic import SyntheticLoader

        total = num_images or synthetic_images(data, split)
        share_size = total * (rank + 1) // world_size - total * rank // world_size
        return SyntheticLoader(
            data, seed=rank, images_per_batch=images_per_batch, device=device, num_images=share_size
        )
    index = _index(data, split, num_images)
    if shuffle_seed is not None:
        index = index.take(np.random.default_rng(shuffle_seed).permutation(len(index)))
    share = EvalShare(index, images_per_batch, rank, world_size)
    return _loader(share, data, data_threads, device, num_channels)


def split_size(data: DataSpec, split: Literal["train", "val"]) -> int:
    """How many images a split has. Raises UserError as `folder_loader` does."""
    return synthetic_images(data, split) if data.name == "synthetic" else len(_index(data, split))


def _index(data: DataSpec, split: str, num_images: int | None = None) -> ImageIndex:
    if data.loader == "memory":
        index = scan_idx(idx_folder(data), split)
        if len(index.classes) != data.num_classes:
            raise UserError(
                f"{index.folder}: has the labels 0 to {len(index.classes) - 1}, "
                f"but data.num_classes is {data.num_classes}"
            )
        return index if num_images is None else spread(index, num_images)
    folder = dataset_folder(data)
    index = scan(folder, split)
    if len(index.classes) != data.num_classes:
        raise UserError(
            f"{folder / split}: has {len(index.classes)} class folders, "
            f"but data.num_classes is {data.num_classes}"
        )
    check_classes(index, other_split="val" if split == "train" else "train")
    return index if num_images is None else spread(index, num_images)


def _loader(
    share: Share, data: DataSpec, data_threads: int, device: "torch.device", num_channels: int
) -> Loader:
    if data.loader == "memory":
        from suite.data.memory import MemoryLoader

        return MemoryLoader(share, data, num_channels=num_channels, device=device)
    if data.loader == "torchvision":
        from suite.data.vision import VisionLoader

        return VisionLoader(share, data, num_workers=data_threads, device=device)
    try:
        from suite.data.dali import DaliLoader
    except ImportError as error:
        raise UserError(
            f"DALI cannot be imported ({error}): install nvidia-dali-cuda130, or set data.loader=torchvision"
        ) from None
    return DaliLoader(share, data, num_threads=data_threads, device=device)
