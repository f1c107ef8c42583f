"""The loaders of a detection run: its endless training batches, and its validation images, each once."""

from typing import TYPE_CHECKING, Literal, Unpack

from suite.data.index import evenly_spaced
from suite.data.loader import Place, loader_class
from suite.data.plan import EvalShare, Share, TrainShare
from suite.data.watch import WatchedLoader
from suite.detection.coco import CocoIndex, check_categories, read_split
from suite.detection.plan import Batching, DetectionPlan
from suite.detection.resize import Resize
from suite.errors import UserError
from suite.experiment import Run
from suite.specs.loader_table import LOADERS
from suite.specs.task import DetectionSpec

if TYPE_CHECKING:
    import torch

    from suite.detection.batch import DetectionLoader


def check_detection_data(run: Run) -> None:
    """Refuse, before training starts, data that training or evaluation would refuse later.

    Reads no image. Raises UserError as `read_split`, `check_categories` and `DetectionPlan` do, for fewer
    images than `val_images`, and for boxes without a mask where masks are trained.
    """
    train, val = _plan(run).index, detection_index(run, "val", run.data.val_images)
    check_categories(train, val)
    if _task(run).masks:
        for index in (train, val):
            if index.without_mask:
                raise UserError(
                    f"{index.file}: {index.without_mask} boxes have no mask, which task.framework: "
                    f"{_task(run).framework} takes; choose one without masks, such as faster_rcnn"
                )


def detection_steps_per_epoch(run: Run) -> int:
    """Return the optimizer steps of one pass over the images with boxes. Raises UserError for none."""
    return _plan(run).steps_per_epoch


def detection_train_loader(
    run: Run, *, start_step: int, rank: int, world_size: int, device: "torch.device"
) -> "DetectionLoader":
    """Return this rank's micro-batches of `batch_size_per_gpu` images, without end, across epochs.

    They start at optimizer step `start_step`, counted over all epochs. The images of a step and their
    mirrors depend on the run's seed alone, not on where the run was resumed, the number of ranks, or the
    loader. Raises UserError as `check_detection_data` does.
    """
    share = TrainShare(_plan(run), run.batch.per_gpu, start_step=start_step, rank=rank, world_size=world_size)
    return _loader(run, share, device)


def detection_val_loader(
    run: Run, *, images_per_batch: int, num_images: int | None = None, **place: Unpack[Place]
) -> "DetectionLoader":
    """Return this rank's share of the validation images, each once over all ranks, in the order of their ids.

    `num_images`: so many, evenly spaced; None: `data.val_images`, or all. Raises UserError as
    `check_detection_data` does.
    """
    index = detection_val_index(run, num_images)
    share = EvalShare(index, images_per_batch, place["rank"], place["world_size"])
    return _loader(run, share, place["device"])


def detection_val_index(run: Run, num_images: int | None = None) -> CocoIndex:
    """Return the images that `detection_val_loader` gives, for the evaluation."""
    return detection_index(run, "val", num_images or run.data.val_images)


def detection_split_loader(
    run: Run,
    split: Literal["train", "val"],
    *,
    images_per_batch: int,
    num_images: int | None,
    device: "torch.device",
) -> "DetectionLoader":
    """Return so many images of a split (None: all), evenly spaced, once each, and not mirrored.

    Of the training images, those that the run is trained on. Raises UserError as `detection_index` does.
    """
    index = detection_index(run, split, num_images)
    return _loader(run, EvalShare(index, images_per_batch, 0, 1), device)


def _task(run: Run) -> DetectionSpec:
    assert isinstance(run.task, DetectionSpec)
    return run.task


def _plan(run: Run) -> DetectionPlan:
    batching = Batching(
        seed=run.seed,
        global_batch_size=run.batch.global_batch_size,
        per_gpu=run.batch.per_gpu,
        num_images=run.data.train_images,
        flip=run.data.flip,
    )
    return DetectionPlan(read_split(run.data, "train"), batching)


def detection_index(run: Run, split: Literal["train", "val"], num_images: int | None = None) -> CocoIndex:
    """Return so many images of a split (None: all), evenly spaced; of train/, of those that are trained on.

    Raises UserError if there are fewer.
    """
    index = _plan(run).index if split == "train" else read_split(run.data, split)
    if num_images is None:
        return index
    if num_images > len(index):
        has = f"{index.folder} has only {len(index)} images"
        raise UserError(f"data.{split}_images is {num_images}, but {has}")
    return index.take(evenly_spaced(num_images, len(index)))


def _loader(run: Run, share: Share[CocoIndex], device: "torch.device") -> "DetectionLoader":
    entry = LOADERS[run.data.loader]
    task = _task(run)
    resize = Resize(task.min_size, task.max_size, task.masks)
    system = run.system
    settings = {
        "data_threads": system.data_threads,
        "timeout_s": system.collective_timeout_s,
        "dali": system.dali,
    }
    options = {key: settings[setting] for key, setting in entry.options.items() if setting in settings}
    kind = loader_class(run.data.loader, entry.boxes)
    return WatchedLoader(kind(share, resize, device=device, **options))
