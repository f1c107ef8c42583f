"""Every cause, planted in one small trained network, is found by its name; a healthy network has none."""

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from suite.shift import Change, diagnose
from suite.shift.diagnosis.causes import CAUSES
from tests.helpers.diagnosis_plants import (
    DIM,
    INFINITY,
    NAN,
    ODD,
    PAIRS,
    PLAIN,
    broken,
    broken_constants,
    diagnosis_of,
    few_samples,
    frozen_and_warming_up,
    frozen_at_first,
    frozen_by_constants,
    frozen_by_mode,
    frozen_by_momentum,
    healthy,
    inherited,
    last_batch,
    moved,
    never_updated,
    short_average,
    slow_momentum,
    stale,
    top1,
    warming_up,
    with_constants,
)
from tests.helpers.trained_network import Batches, batches, network, train

CASES = [
    ("never_updated", never_updated, None, None),
    ("warming_up", warming_up, None, None),
    ("slow_momentum", slow_momentum, None, None),
    ("stale", stale, None, None),
    ("short_average", short_average, batches("train", 4), None),
    ("last_batch", last_batch, ODD, None),
    ("frozen", frozen_at_first, None, None),
    ("frozen", frozen_by_momentum, None, None),
    ("frozen", frozen_by_constants, None, None),
    ("frozen", frozen_by_mode, None, None),
    ("inherited", inherited, None, None),
    ("gap", healthy, None, DIM),
    ("few_samples", few_samples, PAIRS, None),
    ("broken", functools.partial(broken, NAN, "running_mean"), None, None),
    ("broken", functools.partial(broken, -INFINITY, "running_mean"), None, None),
    ("broken", functools.partial(broken, NAN), None, None),
    ("broken", functools.partial(broken, -1.0), None, None),
    ("broken", functools.partial(broken, 0.0), None, None),
    ("broken", functools.partial(broken_constants, NAN, "running_mean"), None, None),
    ("broken", functools.partial(broken_constants, -INFINITY, "running_mean"), None, None),
]


def test_every_cause_is_planted() -> None:
    assert {cause for cause, *_ in CASES} | {"averaged"} == set(CAUSES)


@pytest.mark.parametrize("plant", [stale, slow_momentum])
def test_averaged_weights_are_the_cause_of_their_estimates(plant: Callable[[], nn.Module]) -> None:
    """Their momentum and the number of updates are those of the training, and say nothing."""
    first = diagnose(plant(), batches("train"), batches("val"), averaged_weights=True).findings[0]
    assert (first.cause, first.is_harmful) == ("averaged", True)
    assert "an average of several networks'" in first.sentence
    assert diagnose(healthy(), batches("train"), batches("val"), averaged_weights=True).is_healthy


@pytest.mark.parametrize(("cause", "plant", "training", "evaluation"), CASES)
def test_a_planted_cause_comes_first(
    cause: str, plant: Callable[[], nn.Module], training: Batches | None, evaluation: Batches | None
) -> None:
    model = plant()
    found = diagnosis_of(model, training, evaluation)
    first, *others = found.findings
    assert (first.cause, first.is_harmful) == (cause, True), found.verdict
    assert not any(finding.is_harmful for finding in others), found.verdict
    assert first.title in found.verdict
    assert first.remedy in found.verdict
    assert not found.is_healthy
    if cause == "few_samples":
        assert first.gives_back is None
    else:
        assert first.gives_back is not None
        assert first.gives_back.low > 0
    if cause == "gap":
        assert first.lost is None
        assert first.gives_back.points > 30  # type: ignore[union-attr]
        return
    assert first.lost is not None
    assert first.lost.low > 0
    if cause in OF_THE_SAME_WEIGHTS:
        remedied = top1(model, batches("val")) + first.gives_back.points  # type: ignore[union-attr]
        assert remedied == pytest.approx(top1(healthy(), batches("val")), abs=1.5)


OF_THE_SAME_WEIGHTS = set(CAUSES) - {"few_samples", "slow_momentum", "gap"}


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_network_gets_a_clean_bill(seed: int) -> None:
    torch.manual_seed(seed)
    model = healthy() if seed == 0 else train(network(seed=seed), batches("train"))
    found = diagnosis_of(model)
    assert found.findings == ()
    assert found.is_healthy
    assert found.verdict.startswith("A clean bill. On the training images, the estimates are not shown to")
    assert "that is generalisation, and no fault of BN" in found.verdict
    assert found.generalisation.low > 0


def test_what_is_lost_adds_up() -> None:
    """Half warmed-up estimates, of layers of which one is off for another reason as well."""
    model = warming_up()
    moved(model[7])
    found = diagnosis_of(model)
    assert {finding.cause for finding in found.harmful} == {"warming_up", "inherited"}
    lost = sum(finding.lost.points for finding in found.harmful if finding.lost is not None)
    assert lost == pytest.approx(found.lost.points - found.unexplained.points, abs=0.5)
    accuracies = {(one.images, one.statistics): one.top1_percent for one in found.accuracies}
    by_batch, own = (accuracies["training", name] for name in ("batch statistics", "estimates"))
    assert found.lost.points == pytest.approx(by_batch - own)
    assert own == pytest.approx(top1(model, batches("train")))
    assert accuracies["evaluation", "estimates"] == pytest.approx(top1(model, batches("val")))


def test_two_faults_that_hide_each_other_are_both_named() -> None:
    """Fixing one of them alone gains nothing: ReLU passes little of an input six σ too high."""
    model = inherited()
    moved(model[1])
    moved(model[1])
    model[4].reset_running_stats()
    found = diagnosis_of(model)
    causes = {finding.cause: finding for finding in found.harmful}
    assert set(causes) == {"frozen", "inherited"}
    assert causes["frozen"].layers == ("4",)
    assert causes["inherited"].layers == ("1",)
    assert causes["frozen"].sentence.endswith("other faults hide it.")


def test_wrong_constants_do_not_hide_layers_that_are_half_warmed_up() -> None:
    found = diagnosis_of(frozen_and_warming_up())
    causes = {finding.cause: finding for finding in found.harmful}
    assert set(causes) == {"frozen", "warming_up"}, found.verdict
    assert causes["frozen"].layers == ("1",)
    assert causes["warming_up"].layers == ("4", "7")


def test_broken_estimates_do_not_hide_wrong_constants() -> None:
    model = with_constants(inherited(), 1)
    model[4].running_var[3] = NAN
    causes = {finding.cause: finding.layers for finding in diagnosis_of(model).harmful}
    assert causes == {"frozen": ("1",), "broken": ("4",)}


def test_the_network_is_left_as_it_was() -> None:
    model = broken(NAN)
    model[1].momentum, model[4].training = 0.3, True
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    diagnosis_of(model)
    assert [module.training for module in model.modules()] == modes
    assert model[1].momentum == 0.3
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0, equal_nan=True)


def test_layers_that_were_trained_frozen_are_a_warning() -> None:
    """As in fine-tuning on purpose: their constants are part of what the weights were fitted to."""
    model = network()
    constants = FrozenBatchNorm2d(16)
    constants.running_mean += 1.0
    model[4] = constants
    found = diagnosis_of(train(model, batches("train")))
    (finding,) = found.findings
    assert (finding.cause, finding.is_harmful, finding.layers) == ("frozen", False, ("4",))
    assert finding.sentence.endswith("its remedy gives no accuracy back that these images show.")
    assert found.is_healthy


def test_an_infinite_variance_is_no_clean_bill_even_where_it_costs_nothing() -> None:
    found = diagnosis_of(broken(INFINITY))
    assert [finding.cause for finding in found.findings] == ["broken"]
    assert not found.is_healthy
    assert "layer 4 contain infinities" in found.verdict


def test_the_other_half_is_the_other_one() -> None:
    """Dim and plain images in turn: statistics of the other half fit no image, those of its own batch do."""
    turns = [dim if number % 2 else plain for number, (plain, dim) in enumerate(zip(PLAIN, DIM, strict=True))]
    tried = {one.name: one.top1_percent for one in diagnosis_of(healthy(), evaluation=turns).remedies}
    other, own = (tried[name] for name in tried if "evaluation" in name)
    assert own > other + 20


def test_a_network_that_learnt_nothing_is_told() -> None:
    turned = [(x, (y + 1) % 10) for x, y in batches("train")]
    found = diagnosis_of(healthy(), turned)
    assert "hardly better than guessing" in " ".join(found.notes)
    assert diagnosis_of(healthy()).notes == ()


def test_a_loss_that_no_cause_explains_is_told() -> None:
    found = diagnosis_of(healthy())
    lost = replace(found, lost=Change(2.0, 0.5, 3.5))
    assert not lost.is_healthy
    assert lost.statements[0].endswith("2.0 points of top-1 [0.5, 3.5] worse than with batch statistics.")
    assert lost.statements[1].endswith("so no cause is named.")
    (finding, *_) = diagnosis_of(warming_up()).findings
    suspected = replace(lost, findings=(replace(finding, is_harmful=False),))
    assert suspected.statements[0].endswith("Suspected: estimates half warmed up.")
