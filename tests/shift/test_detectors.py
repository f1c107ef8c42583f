"""Detectors: images of different sizes in lists, and norms that are frozen, as torchvision ships them."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from suite.errors import UserError
from suite.shift import diagnose, probe
from suite.shift.batches import images_of, labels_of
from suite.shift.detections import right_detections

SIZES = ((40, 48), (56, 36), (48, 48))
NUM_NORMS = 53  # of a ResNet-50


def images(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) for size in SIZES]


def targets() -> list[dict[str, Tensor]]:
    return [{"boxes": torch.tensor([[1.0, 1.0, 9.0, 9.0]]), "labels": torch.tensor([1])} for _ in SIZES]


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    """As `fasterrcnn_resnet50_fpn(weights="DEFAULT")` builds it, without the weights."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    model: nn.Module = FasterRCNN(backbone, num_classes=3, min_size=64, max_size=64)
    for layer in model.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.running_var.fill_(1.5)
    return model.eval()


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(images(), id="list of images"),
        pytest.param((images(), targets()), id="images and targets"),
        pytest.param((tuple(images()), tuple(targets())), id="as zip collates"),
        pytest.param([images(), targets()], id="in a list"),
        pytest.param({"images": images()}, id="mapping"),
    ],
)
def test_the_forms_of_a_detectors_batch(batch: Any) -> None:
    found = images_of(batch, "probe")
    assert isinstance(found, list)
    assert all(torch.equal(one, other) for one, other in zip(found, images(), strict=True))


def test_every_frozen_layer_of_a_detector_is_measured(detector: nn.Module) -> None:
    profile = probe(detector, [(images(), targets()), images(1)])
    frozen = {n for n, m in detector.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    assert len(frozen) == NUM_NORMS
    assert {layer.name for layer in profile.layers} == frozen
    assert (profile.num_images, profile.skipped) == (6, {})
    # The stem's input, from the detector's own preparation of the images.
    with torch.no_grad():
        x = [detector.backbone.body.conv1(detector.transform(images(seed))[0].tensors) for seed in (0, 1)]
    values = torch.cat([part.double().transpose(0, 1).flatten(1) for part in x], dim=1)
    assert profile.layers[0].esm_mu == pytest.approx(float(values.mean(dim=1).norm()), rel=1e-5)
    sigma = values.std(dim=1, correction=0) - 1.5**0.5
    assert profile.layers[0].esm_sigma == pytest.approx(float(sigma.norm()), rel=1e-5)


def test_a_detector_that_trains_its_norms() -> None:
    """Without weights, torchvision's own function gives plain BN."""
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=64, max_size=64)
    profile = probe(model, [images()[:1]])
    assert len(profile.layers) == NUM_NORMS


class DetectronNorm(nn.Module):
    """A frozen norm as in detectron2 (detectron2/layers/batch_norm.py): F.batch_norm on its own buffers."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.25), ("running_var", 2.0)):
            self.register_buffer(name, torch.full((num_features,), value))

    def forward(self, x: Tensor) -> Tensor:
        buffers = (self.running_mean, self.running_var, self.weight, self.bias)
        return nn.functional.batch_norm(x, *buffers, training=False, eps=1e-5)


class FrozenBN(DetectronNorm):
    """The same arithmetic, written out, in a class of another name."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class FrozenBatchNorm2dOfDetectron(DetectronNorm):
    """The name by which detectron2's is known."""


@pytest.mark.parametrize("norm", [DetectronNorm, FrozenBN, FrozenBatchNorm2dOfDetectron])
def test_frozen_norms_of_other_libraries_are_measured(norm: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(norm_layer=norm)
    batch = torch.stack([torch.rand(3, 32, 32) for _ in range(4)])
    profile = probe(model, [batch])
    assert len(profile.layers) == 20
    assert profile.skipped == {}
    x = model.conv1(batch).detach().double()
    expected = float((x.mean(dim=(0, 2, 3)) - 0.25).norm())
    assert profile.layers[0].name == "bn1"
    assert profile.layers[0].esm_mu == pytest.approx(expected, rel=1e-5)


def test_a_pair_of_images_and_labels_is_no_list_of_images() -> None:
    signals = torch.zeros(3, 5, 7)  # (N, C, L): three signals of five channels
    assert images_of([signals, torch.arange(3)], "probe") is signals
    assert images_of((signals, signals), "probe") is signals
    assert labels_of((images(), targets())) is None
    assert labels_of(images()) is None


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2, "the images are uint8"),
        (([{"image": torch.zeros(3, 8, 8)}], None), "which holds list; .* for a detector a list of images"),
        ([], "a batch is list; expected"),
    ],
)
def test_lists_of_other_things_are_refused(detector: nn.Module, batch: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=f"probe: .*{sentence}"):
        probe(detector, [batch])


# ------------------------------------------------------------ top-1 and the diagnosis


def test_the_first_detection_of_each_image_by_hand() -> None:
    """Right; of another class; with an IoU of 0.47 and of 0.5; not the first one; none of one, of none."""
    square, label = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([2])
    wide = torch.tensor([[0.0, 0.0, 20.0, 10.0]])
    second = {
        "boxes": torch.cat([square, square + 50]),
        "labels": torch.tensor([2, 2]),
        "scores": torch.tensor([0.4, 0.6]),
    }
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}

    def found(boxes: Tensor, number: int = 2) -> dict[str, Tensor]:
        return {"boxes": boxes, "labels": torch.tensor([number]), "scores": torch.tensor([0.3])}

    true = {"boxes": square, "labels": label}
    outputs = [
        found(square),
        found(square, 1),
        found(wide + 0.2),
        found(wide),
        second,
        none,
        none,
        found(wide),
    ]
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
    batch = (images(), [true] * 6 + [nothing] * 2)
    right_N = right_detections(batch, outputs)
    assert right_N is not None
    assert right_N.tolist() == [True, False, False, True, False, False, True, False]
    assert right_detections({"images": [], "targets": batch[1]}, outputs) is not None
    assert right_detections(images(), outputs) is None
    assert right_detections(batch, torch.zeros(8, 3)) is None


class ColourDetector(nn.Module):
    """A detector that finds one box, whose class is the brighter channel behind a frozen norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = FrozenBatchNorm2d(3)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        mean_NC = self.norm(torch.stack(images)).mean(dim=(2, 3))
        labels_N = 1 + (mean_NC[:, 0] > mean_NC[:, 1]).long()
        box, score = torch.tensor([[1.0, 1.0, 9.0, 9.0]]), torch.tensor([0.9])
        return [{"boxes": box, "labels": label[None], "scores": score} for label in labels_N]


def coloured(seed: int) -> list[Any]:
    """Twelve batches of six images, half of them with more red, the others with more green."""
    generator, batches = torch.Generator().manual_seed(seed), []
    for _ in range(12):
        labels = [1 + number % 2 for number in range(6)]
        shade = torch.tensor([[0.4, 0.6, 0.5], [0.6, 0.4, 0.5]])
        noise = 0.1 * torch.rand(6, 3, 12, 12, generator=generator)
        pixels = noise + shade[torch.tensor(labels) - 1, :, None, None]
        box = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
        targets = [{"boxes": box, "labels": torch.tensor([label])} for label in labels]
        batches.append((list(pixels), targets))
    return batches


def test_constants_of_other_images_are_diagnosed_in_a_detector() -> None:
    """They turn every image green, and half of the images are green."""
    detector = ColourDetector()
    detector.norm.running_mean.copy_(torch.tensor([5.0, 0.0, 0.0]))
    found = diagnose(detector, coloured(0), coloured(1))
    (finding,) = found.harmful
    assert (finding.cause, finding.layers) == ("frozen", ("norm",))
    assert finding.gives_back is not None
    assert finding.gives_back.points == pytest.approx(50)
    assert "they are constants" in finding.sentence
    assert found.notes[0].startswith("Top-1 of a detector is the share of images")
    detector.norm.running_mean.copy_(torch.full((3,), 0.55))
    assert diagnose(detector, coloured(0), coloured(1)).harmful == ()
