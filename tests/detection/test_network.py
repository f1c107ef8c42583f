"""The detectors: the released networks' norm sites, frozen norms, stages that are trained, and weights."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from suite.detection.backbone_weights import load_backbone
from suite.detection.frozen import calibrate, freeze_batch_norms, thaw_batch_norms
from suite.detection.network import build_detector
from suite.errors import UserError
from suite.experiment import Run, XbnSpec
from suite.models import build_model, chosen_sites, convert
from suite.shift import probe
from tests.helpers.small_detectors import images_and_targets, small_run, without_gradient

BODY = "backbone.body."


def full_run(**task: Any) -> Run:
    """Of the released layout: XBN at P2 with GN of 64 groups and a GN stem, on a ResNet-50."""
    task = {"anchor_sizes": None, "fpn_channels": 64, "batch_norm": "frozen", **task}
    return small_run(task=task, model={"arch": "resnet50", "norm": {"kind": "xbn"}})


@pytest.fixture(scope="module")
def released() -> nn.Module:
    return build_detector(full_run())


def released_sites() -> dict[str, int]:
    """The groups of the released ResNet-50's GN by the names of a detector."""
    depths = enumerate((3, 4, 6, 3), start=1)
    blocks = [f"layer{stage}.{block}" for stage, depth in depths for block in range(depth)]
    return {f"{BODY}{block}.bn2": 64 for block in blocks} | {f"{BODY}bn1": 64}


def test_the_backbone_has_the_released_networks_sites(released: nn.Module) -> None:
    """The second norm of each of 16 blocks and the stem's are GN; the other 36 of 53 are frozen BN."""
    groups = {n: m.num_groups for n, m in released.named_modules() if isinstance(m, nn.GroupNorm)}
    expected = released_sites()
    assert groups == expected
    sites = chosen_sites(build_model(full_run().model.model_copy(update={"norm": {"kind": "bn"}})), RELEASED)
    assert {f"{BODY}{site.name}" for site in sites} == expected.keys()
    frozen = {n for n, m in released.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    assert len(frozen) == 36
    assert not any(isinstance(m, nn.BatchNorm2d) for m in released.modules())
    names = {"bn1", "bn3", "1"}
    assert {name.rpartition(".")[2] for name in frozen} == names


@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_torchvisions_own_detector_is_converted_at_the_released_sites(norm_layer: type[nn.Module]) -> None:
    """As `fasterrcnn_resnet50_fpn` builds it without and with weights; frozen norms are thawed before."""
    options = {"weights": None, "norm_layer": norm_layer, "trainable_layers": 5}
    backbone = resnet_fpn_backbone(backbone_name="resnet50", **options)
    model = FasterRCNN(backbone, num_classes=3, min_size=64, max_size=64)
    if norm_layer is FrozenBatchNorm2d:
        with pytest.raises(UserError, match=r"its 53 norms are constants, which .*thaw_batch_norms makes BN"):
            convert(model, RELEASED)
    freeze_batch_norms(convert(thaw_batch_norms(model, are_trained=True), RELEASED))
    new = {n: m for n, m in model.named_modules() if isinstance(m, nn.GroupNorm)}
    assert {name: norm.num_groups for name, norm in new.items()} == released_sites()
    assert all(norm.weight.requires_grad for norm in new.values())
    assert len(probe(model, [images_and_targets(1)]).layers) == 36


RELEASED = XbnSpec(kind="xbn", position="p2", bfn="gn", num_groups=64, stem=True)


def test_a_frozen_detector_is_probed_with_its_frozen_layers() -> None:
    model = build_detector(small_run(task={"batch_norm": "frozen"}))
    profile = probe(model, [images_and_targets(1)])
    assert len(profile.layers) == 13
    assert all(layer.name.startswith(BODY) for layer in profile.layers)


@pytest.mark.parametrize("framework", ["faster_rcnn", "mask_rcnn", "retinanet"])
@pytest.mark.parametrize("num_boxes", [0, 1])
def test_every_trained_parameter_gets_a_gradient_also_without_a_box(framework: str, num_boxes: int) -> None:
    """DDP waits for the gradient of each parameter on each rank."""
    model = build_detector(small_run(task={"framework": framework})).train()
    losses = model(*images_and_targets(num_boxes, masks=framework == "mask_rcnn"))
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert without_gradient(model) == []


@pytest.mark.parametrize(
    ("head", "fpn_norm", "num_convolutions", "num_group_norms"),
    [("2fc", "none", 0, 0), ("4conv1fc", "none", 4, 0), ("4conv1fc", "gn", 4, 8), ("2fc", "gn", 0, 4)],
)
def test_heads_and_the_norms_of_the_fpn(
    head: str, fpn_norm: str, num_convolutions: int, num_group_norms: int
) -> None:
    """Two levels of the FPN have two convolutions each."""
    model = build_detector(small_run(task={"head": head, "fpn_norm": fpn_norm, "fpn_channels": 32}))
    convolutions = [m for m in model.roi_heads.box_head.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == num_convolutions
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert [m.num_groups for m in norms] == [32] * num_group_norms
    linear = [m for m in model.roi_heads.box_head.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == {"2fc": 2, "4conv1fc": 1}[head]


def test_stages_that_are_not_trained_are_constants() -> None:
    model = build_detector(small_run(task={"trained_stages": 2}))
    trained = {n for n, p in model.backbone.body.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith(("layer2.", "layer3.")) for name in trained)
    frozen = {n for n, m in model.backbone.body.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    assert frozen == {"bn1", *(f"layer1.0.{n}" for n in ("bn1", "bn2", "bn3", "downsample.1"))}
    everything = build_detector(small_run())
    assert all(p.requires_grad for p in everything.parameters())


def test_frozen_norms_compute_what_they_froze_and_thaw_again() -> None:
    torch.manual_seed(0)
    body = build_model(small_run().model)
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
                nn.init.uniform_(values, 0.5, 1.5)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = body.eval()(x)
        frozen = freeze_batch_norms(body)(x)
        assert torch.allclose(frozen, expected, rtol=1e-5, atol=1e-6)
        assert torch.allclose(thaw_batch_norms(body).eval()(x), expected, rtol=1e-5, atol=1e-6)


def test_frozen_norms_without_a_checkpoint_get_the_statistics_of_images() -> None:
    model = build_detector(small_run(task={"batch_norm": "frozen"}))
    images, targets = images_and_targets(1)
    calibrate(model, [(images, targets)])
    with torch.no_grad():
        x = model.backbone.body.conv1(model.transform(images)[0].tensors)
    stem = model.backbone.body.bn1
    assert isinstance(stem, FrozenBatchNorm2d)
    assert torch.allclose(stem.running_mean, x.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(stem.running_var, x.var(dim=(0, 2, 3), correction=0), rtol=1e-4)


def test_boxes_are_exact_where_the_backbone_is_in_bfloat16() -> None:
    """Between 256 and 512, bfloat16 has every second number only."""
    model = build_detector(small_run(recipe={"precision": "bf16"}))
    seen: list[torch.dtype] = []
    model.backbone.body.layer2.register_forward_hook(lambda _, inputs, out: seen.append(out.dtype))
    images, targets = images_and_targets(1)
    losses = model.train()(images, targets)
    with torch.no_grad():
        (found, _) = model.eval()(images)
    assert seen == [torch.bfloat16] * 2
    assert {loss.dtype for loss in losses.values()} == {found["boxes"].dtype} == {torch.float32}
    assert not torch.equal(found["boxes"], found["boxes"].bfloat16().float())


# ------------------------------------------------------------ weights of the backbone


def saved(state: dict[str, Any], folder: Path) -> str:
    torch.save(state, folder / "weights.pt")
    return str(folder / "weights.pt")


def test_weights_of_a_classifier_and_of_a_detector_fit_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    classifier = build_model(small_run().model)
    source = saved({"model": classifier.state_dict()}, tmp_path)
    detector = build_detector(small_run(task={"backbone_from": source}))
    assert torch.equal(detector.backbone.body.conv1.weight, classifier.conv1.weight)
    assert torch.equal(detector.backbone.body.layer3[0].bn2.weight, classifier.layer3[0].bn2.weight)
    again = build_model(small_run().model)
    loaded = load_backbone(again, saved(detector.state_dict(), tmp_path))
    assert torch.equal(again.layer2[0].conv1.weight, classifier.layer2[0].conv1.weight)
    assert loaded.missing == ()
    assert any(name.startswith("layer") or "rpn" in name for name in loaded.left) is False


def test_names_that_do_not_fit_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = saved(build_model(small_run().model).state_dict(), tmp_path)
    body = build_model(small_run(model={"norm": {"kind": "xbn", "bfn": "gn"}}).model)
    with caplog.at_level(logging.WARNING):
        loaded = load_backbone(body, source)
    converted = ("bn1", *(f"layer{stage}.0.bn2" for stage in (1, 2, 3)))
    statistics = [f"{name}.running_{which}" for name in converted for which in ("mean", "var")]
    assert sorted(loaded.left) == sorted(statistics)
    assert loaded.missing == ()
    assert "8 names (bn1.running_mean, bn1.running_var" in caplog.text


def test_other_widths_and_other_networks_are_refused(tmp_path: Path) -> None:
    body = build_model(small_run().model)
    state = body.state_dict()
    wide = dict(state) | {"layer2.0.conv1.weight": torch.zeros(7, 64, 1, 1)}
    with pytest.raises(UserError, match=r"other widths: layer2.0.conv1.weight is \(7, 64, 1, 1\), and"):
        load_backbone(body, saved(wide, tmp_path))
    shallow = {name: tensor for name, tensor in state.items() if not name.startswith("layer3.")}
    with pytest.raises(UserError, match=r"another network: it lacks 4 names \(layer3.0.conv1.weight"):
        load_backbone(body, saved(shallow, tmp_path))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/nowhere/w.pt", "/nowhere/w.pt: no such file"),
        ("~no-such-user/w.pt", "task.backbone_from: that home is not known"),
        ("torchvision:ResNet7_Weights.BEST", "torchvision has no weights named 'ResNet7_Weights.BEST'"),
        ("torchvision:ResNet50_Weights.IMAGENET1K_V1", "resnet50-0676ba61.pth is missing: download it from"),
    ],
)
def test_a_source_without_a_file_is_refused(
    source: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=sentence):
        load_backbone(nn.Linear(1, 1), source)


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run \(no run.json\)"):
        load_backbone(nn.Linear(1, 1), str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="has no checkpoint: train that run first"):
        load_backbone(nn.Linear(1, 1), str(tmp_path))
