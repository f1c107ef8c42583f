"""torchvision's detectors over the backbones of this suite.

The backbone is the classification network with its norms as `model.norm` says, up to its last stage. What it
is built into (FPN, RPN, heads, losses) is torchvision's, with torchvision's names: `backbone.body`,
`backbone.fpn`, `rpn`, `roi_heads` or `head`. To add a framework, add a builder and its entry in
`suite.specs.task_table`.

Shape suffixes: N images, C channels, H and W pixels.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from suite.architectures import ARCHITECTURES
from suite.detection.backbone_weights import load_backbone
from suite.detection.frozen import freeze_batch_norms
from suite.experiment import DetectionSpec, ModelSpec, Run
from suite.models import build_model
from suite.shift.layers import preserved
from suite.specs.choice import resolve
from suite.specs.task_table import FPN_NORMS, HEADS
from suite.train.optim import autocast

ASPECT_RATIOS = (0.5, 1.0, 2.0)
ROI_SIZE, MASK_ROI_SIZE, SAMPLING_RATIO = 7, 14, 2
STEM = ("conv1", "bn1")
NormLayer = Callable[[int], nn.Module]


def build_detector(run: Run, *, with_weights: bool = True) -> nn.Module:
    """Return a detector of `data.num_classes` classes and the background, on the CPU.

    In training mode it takes images and targets as torchvision's detectors do, and returns its losses by
    name; in inference mode it returns detections. `with_weights=False` leaves `task.backbone_from` out, for a
    network whose weights come from a checkpoint. Seed torch first to fix the initial weights. Raises
    UserError for a backbone that cannot be read or does not fit.
    """
    task = run.task
    assert isinstance(task, DetectionSpec)
    body = build_model(run.model)
    if with_weights and task.backbone_from is not None:
        load_backbone(body, task.backbone_from)
    backbone = _with_fpn(body, run.model, task, run.recipe.precision)
    assert run.model.num_classes is not None
    build = resolve(task.framework_entry.builder)
    model: nn.Module = build(backbone, run.model.num_classes + 1, task)
    model.transform = _AsLoaded(model.transform)
    return model


def faster_rcnn(backbone: BackboneWithFPN, num_classes: int, task: DetectionSpec) -> nn.Module:
    """Return Faster R-CNN (Ren et al. 2015) on an FPN."""
    model: nn.Module = FasterRCNN(backbone, num_classes=None, **_rcnn(backbone, num_classes, task))
    return model


def mask_rcnn(backbone: BackboneWithFPN, num_classes: int, task: DetectionSpec) -> nn.Module:
    """Return Mask R-CNN (He et al. 2017) on an FPN; its mask head has the norm of the FPN."""
    width, levels = backbone.out_channels, _levels(task)
    model: nn.Module = MaskRCNN(
        backbone,
        num_classes=None,
        **_rcnn(backbone, num_classes, task),
        mask_roi_pool=MultiScaleRoIAlign(levels, MASK_ROI_SIZE, SAMPLING_RATIO),
        mask_head=MaskRCNNHeads(width, [width] * 4, 1, norm_layer=_norm_layer(task)),
        mask_predictor=MaskRCNNPredictor(width, width, num_classes),
    )
    return model


def retinanet(backbone: BackboneWithFPN, num_classes: int, task: DetectionSpec) -> nn.Module:
    """Return RetinaNet (Lin et al. 2017), with three anchors an octave."""
    assert task.anchor_sizes is not None
    sizes = tuple(tuple(int(size * 2 ** (third / 3)) for third in range(3)) for size in task.anchor_sizes)
    anchors = AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(sizes))
    num_anchors = anchors.num_anchors_per_location()[0]
    model: nn.Module = RetinaNet(
        backbone,
        num_classes,
        **_image_sizes(task),
        anchor_generator=anchors,
        head=RetinaNetHead(backbone.out_channels, num_anchors, num_classes, _norm_layer(task)),
        score_thresh=task.score_threshold,
        detections_per_img=task.detections_per_image,
    )
    return model


class _AsLoaded(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's preparation of images without its resizing, which the loader has done."""

    def __init__(self, original: GeneralizedRCNNTransform) -> None:
        sizes = (original.min_size, original.max_size)
        super().__init__(*sizes, original.image_mean, original.image_std, original.size_divisible)

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


class _Backbone(BackboneWithFPN):  # type: ignore[misc]
    """torchvision's backbone in a precision of its own.

    Proposals and heads stay float32: of a place at 800 pixels, bfloat16 knows every fourth only.
    """

    def __init__(self, *arguments: Any, precision: str) -> None:
        super().__init__(*arguments)
        self._precision = precision

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with autocast(x.device, self._precision):
            features: dict[str, Tensor] = super().forward(x)
        return OrderedDict((name, level.float()) for name, level in features.items())


def _with_fpn(body: nn.Module, model: ModelSpec, task: DetectionSpec, precision: str) -> BackboneWithFPN:
    """Return the stages of a network with an FPN; those that are not trained are constants."""
    assert task.fpn_stages is not None
    returned = {f"layer{stage}": str(level) for level, stage in enumerate(task.fpn_stages)}
    widths = _widths(body, returned)
    constant = _constant_parts(model.arch, task)
    for name in constant:
        body.get_submodule(name).requires_grad_(False)
    freeze_batch_norms(body, ("",) if task.is_frozen else constant)
    extra = LastLevelMaxPool()
    if task.framework_entry.extra_levels > 1:
        extra = LastLevelP6P7(task.fpn_channels, task.fpn_channels)
    parts = (body, returned, widths, task.fpn_channels, extra, _norm_layer(task))
    return _Backbone(*parts, precision=precision)


def _constant_parts(arch: str, task: DetectionSpec) -> tuple[str, ...]:
    """Return the names of the stem and the stages that are not trained."""
    num_stages = ARCHITECTURES[arch].num_stages
    assert num_stages is not None
    assert task.trained_stages is not None
    num_constant = num_stages + 1 - task.trained_stages
    parts = [STEM, *([f"layer{stage}"] for stage in range(1, num_stages + 1))]
    return tuple(name for part in parts[:num_constant] for name in part)


def _widths(body: nn.Module, returned: dict[str, str]) -> list[int]:
    """Return the channels of each stage's output."""
    with preserved(body), torch.no_grad():
        outputs = IntermediateLayerGetter(body.eval(), returned)(torch.zeros(1, 3, 32, 32))
    return [output.shape[1] for output in outputs.values()]


def _levels(task: DetectionSpec) -> list[str]:
    """Return the FPN's levels that regions are read from; those above the last stage only propose."""
    assert task.fpn_stages is not None
    return [str(level) for level in range(len(task.fpn_stages))]


def _norm_layer(task: DetectionSpec) -> NormLayer | None:
    num_groups = FPN_NORMS[task.fpn_norm].num_groups
    return None if num_groups is None else partial(nn.GroupNorm, num_groups)


def _image_sizes(task: DetectionSpec) -> dict[str, int]:
    return {"min_size": task.min_size, "max_size": task.max_size}


def _rcnn(backbone: BackboneWithFPN, num_classes: int, task: DetectionSpec) -> dict[str, Any]:
    """Return the arguments that Faster and Mask R-CNN share."""
    assert task.anchor_sizes is not None
    assert task.head is not None
    width, head = backbone.out_channels, HEADS[task.head]
    if head.num_convolutions:
        convolutions, linear = [width] * head.num_convolutions, [task.head_channels] * head.num_linear
        shape = (width, ROI_SIZE, ROI_SIZE)
        box_head: nn.Module = FastRCNNConvFCHead(shape, convolutions, linear, norm_layer=_norm_layer(task))
    else:
        box_head = TwoMLPHead(width * ROI_SIZE**2, task.head_channels)
    sizes, proposals = [(size,) for size in task.anchor_sizes], task.proposals_per_image
    return {
        **_image_sizes(task),
        "rpn_anchor_generator": AnchorGenerator(tuple(sizes), (ASPECT_RATIOS,) * len(sizes)),
        "rpn_pre_nms_top_n_train": 2 * proposals,
        "rpn_post_nms_top_n_train": 2 * proposals,
        "rpn_pre_nms_top_n_test": proposals,
        "rpn_post_nms_top_n_test": proposals,
        "box_roi_pool": MultiScaleRoIAlign(_levels(task), ROI_SIZE, SAMPLING_RATIO),
        "box_head": box_head,
        "box_predictor": FastRCNNPredictor(task.head_channels, num_classes),
        "box_score_thresh": task.score_threshold,
        "box_detections_per_img": task.detections_per_image,
        "box_batch_size_per_image": task.rois_per_image,
    }
