"""Images: the plan of which images come in which order and crop, and the loaders that carry it out.

Torch and DALI are imported only by the functions that make loaders.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from suite.architectures import ARCHITECTURES
from suite.data.clients import FederatedPlan
from suite.data.index import ImageIndex, spread
from suite.data.loader import Batch, Loader, Place, loader_class
from suite.data.plan import EvalShare, Share, TrainPlan, TrainShare
from suite.data.sources import check_stage, dataset_folder, idx_folder, prepare
from suite.data.watch import WatchedLoader
from suite.errors import UserError
from suite.experiment import DataSpec, Run
from suite.specs.choice import resolve
from suite.specs.dali import DaliSpec
from suite.specs.loader_table import LOADERS
from suite.specs.source_table import SOURCES

if TYPE_CHECKING:
    import torch

# The nominal size of the synthetic data set, ImageNet's, if the experiment names no other.
SYNTHETIC_IMAGES = {"train": 1_281_167, "val": 50_000}
# In inference mode the result does not depend on the batch, and few images at a time are slow.
EVALUATED_TOGETHER, MIN_EVALUATION_BATCHES = 64, 20

__all__ = [
    "Batch",
    "Loader",
    "Place",
    "check_data",
    "check_folders",
    "client_loader",
    "dataset_folder",
    "evaluation_batch_size",
    "folder_loader",
    "idx_folder",
    "prepare",
    "split_index",
    "split_size",
    "steps_per_epoch",
    "train_images_loader",
    "train_loader",
    "val_loader",
]


def check_data(run: Run) -> None:
    """Refuse, before training starts, data that training or validation would refuse later.

    Reads no image. Raises UserError.
    """
    resolve(run.task.entry.check_data)(run)


def check_folders(run: Run) -> None:
    """As `check_data`, for classification.

    Raises UserError as `steps_per_epoch` does, and for a split that is missing, has an
    empty class folder, other classes than the other split or another number of them, or fewer images
    than `val_images`; for data to be staged that are no pack.
    """
    steps_per_epoch(run)
    if not _generator(run.data):
        check_stage(run.data)
        index = split_index(run.data, "val", run.data.val_images)
        if run.recipe.federated is not None:
            for client in range(run.recipe.federated.clients):
                _federated_plan(run).validation_images(index, client)


def steps_per_epoch(run: Run) -> int:
    """Return the optimizer steps of one pass over the training images; an incomplete last one is dropped.

    Raises UserError for a data set that is missing, empty, of another number of classes, or too small.
    """
    if _generator(run.data):
        if run.recipe.federated is not None:
            raise UserError(f"recipe.federated: {run.data.name} has no image files to share among clients")
        return max(1, split_size(run.data, "train") // run.batch.global_batch_size)
    return _plan(run).steps_per_epoch


def train_loader(run: Run, *, start_step: int, rank: int, world_size: int, device: "torch.device") -> Loader:
    """Return this rank's micro-batches of `batch_size_per_gpu` images, without end, across epochs.

    They start at optimizer step `start_step` (counted over all epochs), ordered by step and then by
    micro-batch. The images of a step depend on the run's seed alone, not on where the run was resumed, the
    number of ranks, or the loader. Raises UserError as `steps_per_epoch` does.
    """
    per_gpu = run.batch.per_gpu
    if generator := _generator(run.data):
        first = start_step * run.batch.accumulation_steps(world_size)
        settings = {"seed": run.seed + rank, "images_per_batch": per_gpu, "device": device, "first": first}
        return _made(generator, run.data, **settings)
    plan = _plan(run)
    share = TrainShare(plan, per_gpu, start_step=start_step, rank=rank, world_size=world_size)
    return _loader(share, run.data, device, **_settings(run))


def evaluation_batch_size(run: Run, num_images: int) -> int:
    """Return the images of a forward pass over `num_images` in inference mode.

    Never fewer than in training, and more where they are few there, as long as twenty batches remain: errors
    are estimated from batches.
    """
    return max(run.batch.per_gpu, min(EVALUATED_TOGETHER, num_images // MIN_EVALUATION_BATCHES))


def val_loader(run: Run, *, images_per_batch: int, **place: Unpack[Place]) -> Loader:
    """Return this rank's share of the validation images, centrally cropped, each once over all ranks.

    Shares differ by at most one image, so some ranks may have a batch less, or none. The order is mixed, and
    the same in every run: errors that are estimated from batches need batches that are alike.
    """
    return folder_loader(
        run.data,
        "val",
        images_per_batch=images_per_batch,
        num_images=run.data.val_images,
        shuffle_seed=0,
        **_settings(run),
        **place,
    )


def train_images_loader(
    run: Run,
    *,
    images_per_batch: int,
    num_images: int | None = None,
    shuffle_seed: int | None = None,
    **place: Unpack[Place],
) -> Loader:
    """Return this rank's share of the run's training images, centrally cropped, each once over all ranks.

    `num_images` and `shuffle_seed` as for `folder_loader`.
    """
    if _generator(run.data):
        return folder_loader(
            run.data, "train", images_per_batch=images_per_batch, num_images=num_images, **place
        )
    index = _plan(run).index
    index = _mixed(index if num_images is None else spread(index, num_images), shuffle_seed)
    share = EvalShare(index, images_per_batch, place["rank"], place["world_size"])
    return _loader(share, run.data, place["device"], **_settings(run))


def client_loader(run: Run, client: int, *, images_per_batch: int, **place: Unpack[Place]) -> Loader:
    """Return the validation images of a federated client, centrally cropped, in a mixed order.

    The order is mixed as that of `val_loader`. Raises UserError as `FederatedPlan.validation_images`.
    """
    mine = _federated_plan(run).validation_images(split_index(run.data, "val", run.data.val_images), client)
    share = EvalShare(_mixed(mine, 0), images_per_batch, place["rank"], place["world_size"])
    return _loader(share, run.data, place["device"], **_settings(run))


def folder_loader(
    data: DataSpec,
    split: Literal["train", "val"],
    *,
    images_per_batch: int,
    device: "torch.device",
    num_images: int | None = None,
    data_threads: int = 2,
    timeout_s: float = 600.0,
    rank: int = 0,
    world_size: int = 1,
    num_channels: int = 3,
    shuffle_seed: int | None = None,
    dali: DaliSpec | None = None,
    channels_last: bool = False,
) -> Loader:
    """Return one pass over a split, centrally cropped, each image once over all ranks.

    `num_images`: only this many, evenly spaced, so that each class keeps its share; None: all. They are
    ordered by class, or shuffled with `shuffle_seed`, as batch statistics need. `num_channels`: 1 if the
    network reads the first channel only, so that the loader may leave out the others; see `Batch`.
    `timeout_s`: how long worker processes may give nothing. `channels_last`: the images' layout where DALI
    gives bytes; other loaders give NCHW.
    """
    if generator := _generator(data):
        total = num_images or split_size(data, split)
        size = total * (rank + 1) // world_size - total * rank // world_size
        settings = {"images_per_batch": images_per_batch, "device": device, "num_images": size}
        return _made(generator, data, seed=rank, **settings)
    index = _mixed(split_index(data, split, num_images), shuffle_seed)
    share = EvalShare(index, images_per_batch, rank, world_size)
    settings = {"data_threads": data_threads, "timeout_s": timeout_s, "num_channels": num_channels}
    layout = {"dali": dali or DaliSpec(), "channels_last": channels_last}
    return _loader(share, data, device, **settings, **layout)


def split_size(data: DataSpec, split: Literal["train", "val"]) -> int:
    """Return the number of images of a split. Raises UserError as `folder_loader` does."""
    if not _generator(data):
        return len(split_index(data, split))
    return {"train": data.train_images, "val": data.val_images}[split] or SYNTHETIC_IMAGES[split]


def split_index(data: DataSpec, split: str, num_images: int | None = None) -> ImageIndex:
    """Return the images of a split by class; `num_images`: so many, evenly spaced. Raises UserError."""
    index: ImageIndex = resolve(LOADERS[data.loader].index)(data, split)
    return index if num_images is None else spread(index, num_images)


def _plan(run: Run) -> TrainPlan:
    if run.recipe.federated is not None:
        return _federated_plan(run)
    return TrainPlan(split_index(run.data, "train"), run)


@lru_cache(maxsize=2)
def _federated_plan(run: Run) -> FederatedPlan:
    """Return the plan of a run with clients, whose images are dealt once."""
    return FederatedPlan(split_index(run.data, "train"), run)


def _mixed(index: ImageIndex, seed: int | None) -> ImageIndex:
    """Return the images in the order of a seed; None: as they are."""
    return index if seed is None else index.take(np.random.default_rng(seed).permutation(len(index)))


def _settings(run: Run) -> dict[str, Any]:
    """Return the settings that a loader may take; see `LoaderEntry`."""
    num_channels = ARCHITECTURES[run.model.arch].family.input_channels
    return {
        "data_threads": run.system.data_threads,
        "timeout_s": run.system.collective_timeout_s,
        "num_channels": num_channels,
        "dali": run.system.dali,
        "channels_last": run.recipe.channels_last,
    }


def _loader(share: Share[ImageIndex], data: DataSpec, device: "torch.device", **settings: Any) -> Loader:
    entry = LOADERS[data.loader]
    options = {keyword: settings[setting] for keyword, setting in entry.options.items()}
    kind = loader_class(data.loader, entry.loader)
    return WatchedLoader(kind(share, data, device=device, **options))


def _made(reference: str, *arguments: Any, **options: Any) -> Loader:
    loader: Loader = resolve(reference)(*arguments, **options)
    return loader


def _generator(data: DataSpec) -> str:
    """Return the loader that makes the batches of a source without files; empty for a source with files."""
    return SOURCES[data.name].generator if data.name in SOURCES else ""
