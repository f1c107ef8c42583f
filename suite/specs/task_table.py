"""The tasks, and the choices of detection, by name.

To add a task, add an entry of `TASKS`, its spec in `suite.specs.task`, and a class that satisfies
`suite.train.task.Task`. To add a framework, add an entry and its builder in `suite.detection.network`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class TaskEntry:
    """A task. `task`: "module:class" that satisfies `suite.train.task.Task`.

    `check_data`: "module:function" that refuses a run whose data training or validation would refuse.
    `accuracy`: the stem of the metric by which networks are compared, `ACCURACY_percent`; `title`: its name.
    `layout`: how its data lie, as in `suite.specs.source_table`. `prefixes`: how the names of its own metrics
    begin. `is_static`: whether all steps have the same operations and shapes. `unused`: fields that mean
    nothing in it, as `section.field`, and why. A config that sets one is refused.
    """

    meaning: str
    task: str
    check_data: str
    accuracy: str
    title: str
    layout: str
    prefixes: tuple[str, ...]
    is_static: bool
    unused: Mapping[str, str] = field(default_factory=dict)

    def measures(self, metric: str) -> bool:
        """Return whether runs of this task may measure a metric: whether it is not another task's."""
        return not any(metric.startswith(one.prefixes) for one in TASKS.values() if one is not self)

    @property
    def metric(self) -> str:
        """The metric by which networks are compared, in percent."""
        return f"{self.accuracy}_percent"


_SIZES = "images keep their shape: set task.min_size and task.max_size"
_CROPS = "a detector sees whole images: leave it out"
_ONE_LABEL = "an image has no single label: leave it out"
TASKS = {
    "classification": TaskEntry(
        "one label for an image",
        "suite.train.classification:Classification",
        "suite.data:check_folders",
        "top1",
        "top-1",
        "folders",
        ("top1_", "top5_"),
        is_static=True,
    ),
    "detection": TaskEntry(
        "boxes, and masks with mask_rcnn, for the objects of an image",
        "suite.detection.task:Detection",
        "suite.detection.loaders:check_detection_data",
        "ap",
        "AP",
        "coco",
        ("ap_", "ap50_", "ap75_", "mask_ap"),
        is_static=False,
        unused={
            "data.image_size": _SIZES,
            "data.eval_resize": _SIZES,
            "data.interpolation": "images of detection are resized bilinearly: leave it out",
            "data.crop_area": _CROPS,
            "data.crop_ratio": _CROPS,
            "data.stage": "packs hold images in classes: leave it out",
            "recipe.mixup_alpha": _ONE_LABEL,
            "recipe.label_smoothing": _ONE_LABEL,
            "recipe.channels_last": "images come in lists of different sizes: leave it out",
            "recipe.compile": "the shapes differ from step to step: leave it out",
            "system.cuda_graphs": "the shapes differ from step to step: leave it out",
            "recipe.federated": "clients are dealt by the labels of images: leave it out",
            "measure.eval_train": "only classification evaluates its training images: leave it out",
        },
    ),
}
ACCURACIES = {entry.metric: entry.title for entry in TASKS.values()}
"""The metrics by which networks are compared, with their titles."""


def accuracy_in(content: Mapping[str, Any], decimals: int = 1) -> str:
    """Return a run's newest accuracy by its status, such as "top-1 71.3 %"; empty where there is none."""
    found = ((title, content.get(metric)) for metric, title in ACCURACIES.items())
    return next((f"{title} {value:.{decimals}f} %" for title, value in found if value is not None), "")


@dataclass(frozen=True)
class Framework:
    """A detection framework of torchvision.

    `builder`: "module:function" of (backbone, num_classes, task), which returns the network. `first_stage`:
    of a network of four stages, the first one whose output the FPN takes; `extra_levels`: how many levels
    the FPN adds above the last. `iou_types`: what COCO's evaluation compares. `has_box_head`: whether `head`
    chooses a head for regions.
    """

    meaning: str
    builder: str
    first_stage: int
    extra_levels: int
    iou_types: tuple[Literal["bbox", "segm"], ...] = ("bbox",)
    has_box_head: bool = True


_NETWORK = "suite.detection.network"
FRAMEWORKS = {
    "faster_rcnn": Framework("regions and their boxes", f"{_NETWORK}:faster_rcnn", 1, 1),
    "mask_rcnn": Framework("with masks", f"{_NETWORK}:mask_rcnn", 1, 1, ("bbox", "segm")),
    "retinanet": Framework("one stage, focal loss", f"{_NETWORK}:retinanet", 2, 2, has_box_head=False),
}


@dataclass(frozen=True)
class Head:
    """A head for regions: so many convolutions of the FPN's width, then layers of `head_channels`."""

    meaning: str
    num_convolutions: int
    num_linear: int


HEADS = {
    "2fc": Head("two linear layers", 0, 2),
    "4conv1fc": Head("four convolutions, with the norm of fpn_norm, and a linear layer", 4, 1),
}


@dataclass(frozen=True)
class FpnNorm:
    """A norm behind the convolutions of the FPN and of convolutional heads; no groups: no norm."""

    meaning: str
    num_groups: int | None


FPN_NORMS = {"none": FpnNorm("no norm", None), "gn": FpnNorm("group norm of 32 groups", 32)}


@dataclass(frozen=True)
class BatchNormState:
    """What the backbone's BN does in training."""

    meaning: str
    is_frozen: bool


BATCH_NORMS = {
    "frozen": BatchNormState("constants: those of the checkpoint, or of the first training images", True),
    "trained": BatchNormState("batch statistics, in the stages that are trained", False),
}
