"""A network under a shift: accuracy, loss, confidence and ESM against what other code finds."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from suite.data.shifts import planned_streams
from suite.errors import UserError
from suite.experiment import DataSpec
from suite.record import RobustnessRecord
from suite.robustness_coverage import missing_of
from suite.shift import attribute, probe
from suite.shift.robustness import Images, Interleaved, measure_shift, survey, top1_at_test_time
from suite.specs.robustness import RobustnessPlan

SMALL = DataSpec(
    name="fashion-mnist-7k", loader="memory", image_size=14, eval_resize=14, crop_area=(1, 1), flip=False
)
IMAGES = Images(SMALL, torch.device("cpu"))


def network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )  # fmt: skip
    with torch.no_grad():
        model[1].running_mean.normal_(0, 0.5)
        model[4].running_var.uniform_(0.2, 3)
    return model


def labelled(classes: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(31, 3, 9, 9, generator=generator)
    labels = torch.randint(0, classes, (31,), generator=generator)
    return list(zip(images.split(12), labels.split(12), strict=True))


def logits_and_labels(model: nn.Module) -> tuple[Tensor, Tensor]:
    images, labels = (torch.cat(parts) for parts in zip(*labelled(), strict=True))
    with torch.no_grad():
        return model.eval()(images), labels


def test_the_numbers_are_those_of_plain_inference() -> None:
    model = network()
    found = measure_shift(model, labelled())
    logits, labels = logits_and_labels(model)
    assert found.num_images == 31
    assert found.top1_percent == pytest.approx(100 * float((logits.argmax(1) == labels).float().mean()))
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert found.confidence_percent == pytest.approx(100 * float(logits.softmax(1).amax(1).mean()), rel=1e-5)
    expected = probe(model, [images for images, _ in labelled()])
    for metric in ("esm_mu", "esm_sigma_scaled"):
        assert found.profile.values(metric) == pytest.approx(expected.values(metric))
    assert found.attribution is None


def test_parts_are_those_of_attribute() -> None:
    model = network()
    found, expected = measure_shift(model, labelled(), with_parts=True), attribute(model, labelled())
    assert found.attribution is not None
    assert [layer.sigma.own for layer in found.attribution.layers] == pytest.approx(
        [layer.sigma.own for layer in expected.layers]
    )


def test_a_subset_of_the_outputs_masks_the_others_and_renormalises_nothing() -> None:
    model, outputs = network(), [1, 3]
    with torch.no_grad():
        model[-1].bias[0] = 10.0  # a class that the shift lacks
    batches = [(images, torch.tensor([outputs[int(y) % 2] for y in labels])) for images, labels in labelled()]
    found, whole = measure_shift(model, batches, outputs=outputs), measure_shift(model, batches)
    logits, _ = logits_and_labels(model)
    labels = torch.cat([y for _, y in batches])
    guesses = torch.tensor(outputs)[logits[:, outputs].argmax(1)]
    assert found.top1_percent == pytest.approx(100 * float((guesses == labels).float().mean()))
    assert whole.top1_percent == 0 < found.top1_percent
    assert (found.loss, found.confidence_percent) == (whole.loss, whole.confidence_percent)


def test_the_model_is_restored() -> None:
    model = network().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    measure_shift(model, labelled(), with_parts=True)
    top1_at_test_time(model, labelled(), "unmix")
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_top1_at_test_time_is_that_of_training_mode_with_batch_statistics() -> None:
    model = network()
    top1, num_images = top1_at_test_time(model, labelled(), "prediction-time")
    model.train()
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in labelled())
    assert num_images == 31
    assert top1 == pytest.approx(100 * right / 31)
    assert (
        top1_at_test_time(network(), labelled(), "frozen")[0]
        == measure_shift(network(), labelled()).top1_percent
    )


def test_a_network_without_bn_has_no_layers() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(243, 4))
    assert measure_shift(model, labelled(), with_parts=True).profile.layers == ()


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (network(), [], "robust: no images"),
        (network(), [images for images, _ in labelled()], r"robust: needs batches of \(images, labels\)"),
        (network(3), labelled(), "robust: a label is 3, but the network has 3 outputs"),
        (
            network(),
            [(images * torch.inf, y) for images, y in labelled()],
            "robust: the network's outputs are not",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(model: nn.Module, batches: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure_shift(model, batches)


def test_interleaved_streams_mix_domains_in_each_batch_and_can_be_read_again() -> None:
    one, other = labelled(), [(images + 9, labels) for images, labels in labelled()]
    stream = Interleaved([one, other])
    for _ in range(2):
        batches = list(stream)
        assert [len(labels) for _, labels in batches] == [24, 24, 14]
        assert torch.equal(batches[1][0], torch.cat([one[1][0], other[1][0]]))


# ---------------------------------------------------------------- surveys


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )


PLAN = RobustnessPlan(
    corruptions=("contrast", "brightness"),
    severities=(1, 5),
    max_images=40,
    methods=("frozen", "prediction-time"),
    images_per_batch=(8,),
    orders=("mixed", "by_label"),
)


def test_a_survey_measures_what_is_missing_and_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    first = survey(model, IMAGES, PLAN.model_copy(update={"methods": (), "severities": (1,)}), step=7)
    assert [one.key[::2][:2] for one in first.shifts] == [("clean", None), ("contrast", 1), ("brightness", 1)]
    assert first.test_time == ()
    assert (first.step, first.data, first.shifts[0].max_images) == (7, "fashion-mnist-7k", 40)
    whole = survey(model, IMAGES, PLAN, step=7, known=first)
    assert whole.shifts[:3] == first.shifts
    assert [one.key[::2][:2] for one in whole.shifts[3:]] == [("contrast", 5), ("brightness", 5)]
    # Clean, two corruptions at their highest severity, and all mixed; two orders; two methods.
    assert len(whole.test_time) == 4 * 2 * 2
    assert {one.num_images for one in whole.test_time} == {40, 80}
    assert not missing_of(whole, PLAN, has_bn=True)
    monkeypatch.setattr("suite.shift.robustness.surveys.measure_shift", None)  # a call would raise
    assert survey(model, IMAGES, PLAN, step=7, known=whole) == whole
    with pytest.raises(TypeError):
        survey(model, IMAGES, PLAN, step=8, known=whole)  # another checkpoint
    restored = RobustnessRecord.model_validate_json(whole.model_dump_json(exclude_none=True))
    assert restored == whole


def test_results_are_kept_one_by_one_and_a_refused_stream_costs_no_other() -> None:
    kept: list[RobustnessRecord] = []
    plan = PLAN.model_copy(update={"severities": (5,), "images_per_batch": (1, 8), "orders": ("mixed",)})
    torch.manual_seed(0)
    vectors = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 14, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))
    with pytest.raises(UserError, match="prediction-time: 2 gets one value per channel"):
        survey(vectors, IMAGES, plan, keep=kept.append)
    assert [len(one.shifts) for one in kept[:3]] == [1, 2, 3]
    # Three shifts and both mixed, in batches of 1 (mixed: 2) and 8, by two methods; three are refused.
    assert len(kept[-1].test_time) == 4 * 2 * 2 - 3
    missing = missing_of(kept[-1], plan, has_bn=True)
    assert {(method, stream.images_per_batch) for stream, method in missing.streams} == {
        ("prediction-time", 1)
    }


def test_another_number_of_images_and_another_folder_are_measured_beside(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"methods": (), "severities": (5,)})
    first = survey(small(), IMAGES, plan)
    other = survey(small(), IMAGES, plan.model_copy(update={"max_images": 30}), known=first)
    assert other.shifts[: len(first.shifts)] == first.shifts
    assert [one.num_images for one in other.shifts] == [40] * 3 + [30] * 3
    for name in ("a", "b"):
        folder = tmp_path / name / "3"
        folder.mkdir(parents=True)
        Image.new("RGB", (14, 14), (90, 90, 90)).save(folder / "one.png")
    both = first
    for name in ("a", "b"):
        folders = {"art": str(tmp_path / name)}
        both = survey(small(), IMAGES, plan.model_copy(update={"folders": folders}), known=both)
    art = [one for one in both.shifts if one.shift == "art"]
    assert [one.source for one in art] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert [one.num_classes for one in art] == [1, 1]
    # One class alone, on clean images too: every guess is right.
    assert [(one.top1_percent, one.reference and one.reference[0]) for one in art] == [(100, 100)] * 2


def test_the_images_of_a_mixed_stream_differ_from_domain_to_domain() -> None:
    stream = planned_streams(PLAN)[-1]
    assert (stream.images_per_batch, stream.images_of_each) == (8, 4)
    opened = [IMAGES.open(shift, 4, 40, "mixed", seed) for seed, shift in enumerate(stream.shifts)]
    first = [next(iter(one.loader)).labels_N.tolist() for one in opened]
    assert first[0] != first[1]


def test_streams_sorted_by_label_starve_batch_statistics() -> None:
    """A batch of one class has that class's statistics: the known failure is measured, not hidden."""
    from tests.helpers import trained_network

    model = trained_network.train(trained_network.network(), trained_network.batches("train"), epochs=3)

    def stream(is_sorted: bool) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = (torch.cat(parts) for parts in zip(*trained_network.batches("val"), strict=True))
        order = labels.argsort(stable=True) if is_sorted else torch.arange(len(labels))
        return list(zip(images[order].split(20), labels[order].split(20), strict=True))  # type: ignore[return-value]

    mixed, by_label = (
        {
            name: top1_at_test_time(model, list(stream(is_sorted)), name)[0]
            for name in ("frozen", "prediction-time", "unmix")
        }
        for is_sorted in (False, True)
    )
    assert mixed["frozen"] == by_label["frozen"]
    assert mixed["prediction-time"] > mixed["frozen"] - 5
    assert by_label["prediction-time"] < by_label["frozen"] - 10
    assert by_label["unmix"] > by_label["prediction-time"]


def test_batches_may_be_loader_batches() -> None:
    batches = [SimpleNamespace(images_NCHW=images, labels_N=labels) for images, labels in labelled()]
    assert measure_shift(network(), batches).loss == measure_shift(network(), labelled()).loss
