"""What a network is trained to do: classification, or detection with torchvision's frameworks."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from suite.specs.base import Spec
from suite.specs.choice import described
from suite.specs.task_table import BATCH_NORMS, FPN_NORMS, FRAMEWORKS, HEADS, TASKS, Framework, TaskEntry

if TYPE_CHECKING:
    FrameworkName = str
    HeadName = str
    FpnNormName = str
    BatchNormName = str
else:
    FrameworkName, HeadName = Literal[tuple(FRAMEWORKS)], Literal[tuple(HEADS)]
    FpnNormName, BatchNormName = Literal[tuple(FPN_NORMS)], Literal[tuple(BATCH_NORMS)]

TORCHVISION = "torchvision:"
"""With this a `backbone_from` begins that names weights in torch's cache."""


class ClassificationSpec(Spec):
    """One label for an image: the default."""

    kind: Literal["classification"] = "classification"

    @property
    def masks(self) -> bool:
        """Whether masks are evaluated: never."""
        return False

    @property
    def entry(self) -> TaskEntry:
        return TASKS[self.kind]


class DetectionSpec(Spec):
    """Detection: a backbone of the suite with an FPN in a framework of torchvision."""

    kind: Literal["detection"]
    framework: FrameworkName = Field("faster_rcnn", description=described(FRAMEWORKS))
    head: HeadName | None = Field(
        None, description=f"of regions; null: 2fc, none for retinanet; {described(HEADS)}"
    )
    fpn_norm: FpnNormName = Field("none", description=described(FPN_NORMS))
    batch_norm: BatchNormName = Field("frozen", description=f"of the backbone; {described(BATCH_NORMS)}")
    backbone_from: str | None = Field(
        None,
        description="weights of the backbone: the folder of a run, a checkpoint file, or torchvision:NAME "
        "such as torchvision:ResNet50_Weights.IMAGENET1K_V1. {arch} and {norm} are replaced by the run's, "
        "such as resnet50 and xbn-p2-gn64. Part of the run_id as it is written; null: none",
    )
    trained_stages: int | None = Field(
        None,
        ge=0,
        description="so many of the last stages are trained, the others are constants; one more than there "
        "are: the stem too; null: all, or all but stem and first stage with backbone_from",
    )
    fpn_stages: tuple[int, ...] | None = Field(
        None, description="stages whose outputs the FPN takes; null: all (retinanet, small ResNets: from 2)"
    )
    fpn_channels: int = Field(256, ge=8, description="width of the FPN and of convolutional heads")
    head_channels: int = Field(1024, ge=8, description="width of the linear layers of a head of regions")
    min_size: int = Field(800, ge=32, description="shorter side of an image, pixels")
    max_size: int = Field(1333, ge=32, description="longer side at most, pixels; it has precedence")
    anchor_sizes: tuple[int, ...] | None = Field(
        None,
        description="side of the anchors of each FPN level, pixels; null: 32, 64, … for the lowest and so on",
    )
    rois_per_image: int = Field(512, ge=1, description="regions of an image that the head is trained on")
    proposals_per_image: int = Field(
        1000, ge=1, description="regions that the RPN proposes in evaluation; twice as many in training"
    )
    score_threshold: float = Field(0.05, ge=0, lt=1, description="detections below it are left out")
    detections_per_image: int = Field(100, ge=1, description="at most; COCO's evaluation counts 100")

    @model_validator(mode="after")
    def _check(self) -> "DetectionSpec":
        if self.framework_entry.has_box_head:
            object.__setattr__(self, "head", self.head or "2fc")
        elif self.head is not None:
            raise ValueError(f"head: {self.framework} has no head of regions; leave it out")
        if self.max_size < self.min_size:
            raise ValueError(f"max_size ({self.max_size}) is below min_size ({self.min_size})")
        stages = self.fpn_stages
        if stages is not None and (not stages or list(stages) != sorted(set(stages)) or stages[0] < 1):
            raise ValueError(f"fpn_stages: expected rising stages, such as [2, 3, 4], got {list(stages)}")
        if self.anchor_sizes is not None and min(self.anchor_sizes, default=0) < 1:
            raise ValueError(
                f"anchor_sizes: expected pixels, such as [32, 64], got {list(self.anchor_sizes)}"
            )
        if self.fpn_norm != "none" and self.fpn_channels % (FPN_NORMS[self.fpn_norm].num_groups or 1):
            groups = FPN_NORMS[self.fpn_norm].num_groups
            raise ValueError(f"fpn_channels {self.fpn_channels} is no multiple of the {groups} groups of GN")
        return self

    def for_stages(self, num_stages: int | None, arch: str) -> "DetectionSpec":
        """Return the spec with the defaults that depend on a network of so many stages.

        Raises ValueError for a network without stages, and for stages or anchors that do not fit it.
        """
        if num_stages is None:
            raise ValueError(f"model.arch: detection takes the stages of a ResNet, and {arch} has none")
        first = self.framework_entry.first_stage if num_stages >= FULL_STAGES else 2
        stages = self.fpn_stages or tuple(range(first, num_stages + 1))
        if stages[-1] > num_stages:
            raise ValueError(
                f"task.fpn_stages: {arch} has stages 1 to {num_stages}, there is no {stages[-1]}"
            )
        num_trained = self.trained_stages
        if num_trained is None:
            num_trained = num_stages + 1 if self.backbone_from is None else num_stages - 1
        if num_trained > num_stages + 1:
            raise ValueError(
                f"task.trained_stages is {num_trained}, but {arch} has {num_stages} stages and a stem"
            )
        levels = len(stages) + self.framework_entry.extra_levels
        sizes = self.anchor_sizes or tuple(32 * 2**level for level in range(levels))
        if len(sizes) != levels:
            raise ValueError(
                f"task.anchor_sizes has {len(sizes)} sizes, but the FPN {levels} levels: stages "
                f"{', '.join(map(str, stages))} and {self.framework_entry.extra_levels} above them"
            )
        update = {"fpn_stages": stages, "trained_stages": num_trained, "anchor_sizes": sizes}
        return self.model_copy(update=update)

    @property
    def entry(self) -> TaskEntry:
        return TASKS[self.kind]

    @property
    def framework_entry(self) -> Framework:
        return FRAMEWORKS[self.framework]

    @property
    def masks(self) -> bool:
        """Whether masks are trained and evaluated beside boxes."""
        return "segm" in self.framework_entry.iou_types

    @property
    def is_frozen(self) -> bool:
        """Whether BN normalises with constants."""
        return BATCH_NORMS[self.batch_norm].is_frozen

    @property
    def label(self) -> str:
        """A readable name of the framework with its head, such as `faster_rcnn-4conv1fc-gn`."""
        norm = "" if self.fpn_norm == "none" else f"-{self.fpn_norm}"
        return f"{self.framework}{f'-{self.head}' if self.head else ''}{norm}"


FULL_STAGES = 4
"""A network of fewer stages is one for small images, whose first stage has their full resolution."""
TaskSpec = Annotated[ClassificationSpec | DetectionSpec, Field(discriminator="kind")]
