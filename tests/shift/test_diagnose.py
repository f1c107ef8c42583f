"""Every cause, planted in one small trained network, is found by its name; a healthy network has none."""

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from suite.errors import UserError
from suite.shift import Change, Diagnosis, diagnose
from suite.shift.diagnosis.causes import CAUSES, sentences
from suite.shift.layers import batch_norm_layers
from tests.helpers.trained_network import Batches, batches, network, train

NAN, INFINITY = float("nan"), float("inf")


@functools.cache
def _healthy() -> nn.Module:
    return train(network(), batches("train"))


def healthy() -> nn.Module:
    """A copy of one network that is trained once."""
    return copy.deepcopy(_healthy())


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return list(batch_norm_layers(model).values())  # type: ignore[arg-type]


@torch.no_grad()
def follow(model: nn.Module, data: Batches, momentum: float) -> nn.Module:
    """Update the estimates over these batches."""
    for layer in norms(model):
        layer.momentum = momentum
    model.train()
    for x, _ in data:
        model(x)
    return model.eval()


# ------------------------------------------------------------ the plants


def never_updated() -> nn.Module:
    model = healthy()
    for layer in norms(model):
        layer.reset_running_stats()
    return model


def warming_up() -> nn.Module:
    return follow(never_updated(), batches("train")[:8], 0.1)


def slow_momentum() -> nn.Module:
    """After 500 steps that change little, 50 that change much."""
    model = train(network(0.01), batches("train", 16), epochs=5, lr=0.02)
    return train(model, batches("train"), epochs=1, lr=0.4)


def stale() -> nn.Module:
    """Weights that were rescaled after the training, to which BN with batch statistics is indifferent."""
    model = healthy()
    for convolution in (model[0], model[3], model[6]):
        convolution.weight.data *= 1.5
    return model


def short_average() -> nn.Module:
    return follow(healthy(), batches("train", 4, 400), 0.9)


ODD = batches("train", 64, 1537)  # of which the last one has a single image


def last_batch() -> nn.Module:
    return follow(healthy(), ODD, 0.5)


def moved(layer: nn.BatchNorm2d) -> None:
    layer.running_mean += 2 * layer.running_var.sqrt()


def frozen_at_first() -> nn.Module:
    model = healthy()
    model[4].reset_running_stats()
    return model


def frozen_by_momentum() -> nn.Module:
    model = healthy()
    model[4].momentum = 0.0
    moved(model[4])
    return model


def frozen_by_mode() -> nn.Module:
    model = healthy().train()
    model[4].eval()
    moved(model[4])
    return model


def frozen_by_constants() -> nn.Module:
    """Two of three layers: each one's constants are in the way of the next one's statistics."""
    model = healthy()
    for index in (1, 4):
        moved(model[index])
        layer = FrozenBatchNorm2d(model[index].num_features)
        layer.load_state_dict(model[index].state_dict())
        model[index] = layer
    return model


def inherited() -> nn.Module:
    model = healthy()
    moved(model[1])
    return model


PAIRS = batches("train", 2, 400)


def few_samples() -> nn.Module:
    """Trained on batches of two that are never mixed: each image's prediction depends on its neighbour."""
    return train(network(), PAIRS, epochs=5, lr=0.02, is_mixed=False)


def broken(value: float, buffer: str = "running_var") -> nn.Module:
    model = healthy()
    getattr(model[4], buffer)[3] = value
    return model


PLAIN = batches("val")
DIM = [(0.5 * x + 0.8, y) for x, y in PLAIN]
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
]


# ------------------------------------------------------------ the tests


def diagnosis_of(
    model: nn.Module, training: Batches | None = None, evaluation: Batches | None = None
) -> Diagnosis:
    return diagnose(model, training or batches("train"), evaluation or batches("val"))


def top1(model: nn.Module, data: Batches) -> float:
    """In inference mode, counted here."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data)
    return 100 * right / sum(len(y) for _, y in data)


def test_every_cause_is_planted() -> None:
    assert {cause for cause, *_ in CASES} == set(CAUSES)


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
    """Mending one of them alone gives nothing back."""
    model = inherited()
    model[4].reset_running_stats()
    found = diagnosis_of(model)
    causes = {finding.cause: finding for finding in found.harmful}
    assert set(causes) == {"frozen", "inherited"}
    assert causes["frozen"].layers == ("4",)
    assert causes["inherited"].layers == ("1",)
    assert causes["frozen"].sentence.endswith("other faults hide it.")


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


# ------------------------------------------------------------ forms of networks


class Dictionary(nn.Module):
    def __init__(self, model: nn.Module, key: str = "logits") -> None:
        super().__init__()
        self.model, self.key = model, key

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.key: self.model(x)}


@pytest.fixture(scope="module")
def small() -> tuple[Batches, Batches]:
    return batches("train", 32, 320), batches("val", 32, 320)


def test_wrapped_and_compiled_networks_and_dictionaries(small: tuple[Batches, Batches]) -> None:
    plain = diagnose(never_updated(), *small)
    compiled = torch.compile(never_updated(), backend="eager")
    with torch.no_grad():
        compiled(small[0][0][0])
    forms = [compiled, nn.DataParallel(never_updated()), Dictionary(never_updated())]
    found = [diagnose(model, *small) for model in forms]
    found.append(
        diagnose(Dictionary(never_updated(), "scores"), *small, logits=lambda output: output["scores"])
    )
    torch.compiler.reset()
    for one in found:
        assert one.verdict == plain.verdict
        assert one.remedies == plain.remedies
    with pytest.raises(UserError, match="`logits` can take them out"):
        diagnose(Dictionary(never_updated(), "scores"), *small)


def test_one_layer(small: tuple[Batches, Batches]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(196, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    train(model, small[0])
    model[2].running_mean += 3 * model[2].running_var.sqrt()
    model[2].num_batches_tracked.fill_(5000)
    (finding,) = diagnose(model, *small).findings
    assert (finding.cause, finding.is_harmful) == ("stale", True)
    model[2].reset_running_stats()
    (finding,) = diagnose(model, *small).findings
    assert "the only BN layer (2) still have the initial" in finding.sentence


def test_mappings_are_batches(small: tuple[Batches, Batches]) -> None:
    mappings = [[{"pixel_values": x, "labels": y} for x, y in part] for part in small]
    assert diagnose(never_updated(), *mappings).verdict == diagnose(never_updated(), *small).verdict


# ------------------------------------------------------------ bad input


def damaged(model: nn.Module) -> nn.Module:
    model[3].weight.data[0, 0, 0, 0] = NAN
    return model


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(196, 10)),
            lambda b: b,
            "Sequential has no BN layer, so",
        ),
        (
            lambda: network(norm=functools.partial(nn.BatchNorm2d, track_running_stats=False)),
            lambda b: b,
            "none of its 3 BN layers keeps running statistics, so nothing is estimated",
        ),
        (lambda: damaged(healthy()), lambda b: b, "inputs of 4 are not finite even with batch statistics"),
        (healthy, lambda b: b[:1], "there are 32 training images in 1 batches; expected 50 or more, in 4"),
        (healthy, lambda b: [(b[0][0][:1], b[0][1][:1])], "there are 1 training images in 1 batches"),
        (healthy, lambda b: [], "no images; the batches are empty"),
        (healthy, lambda b: [x for x, _ in b], r"accuracy needs batches of \(images, labels\)"),
        (healthy, iter, "the batches are read several times; give a list or a loader"),
        (healthy, lambda b: Shuffled(b), "the training batches are other ones when they are read again"),
        (
            healthy,
            lambda b: Shuffled(b, True),
            "the training batches are other ones when they are read again",
        ),
        (healthy, lambda b: by_class(b), "of the 10 classes on average, as if sorted by class"),
        (healthy, lambda b: [(x, y + 90) for x, y in b], "a label is 9., but the network has 10 outputs"),
    ],
)
def test_bad_input_is_one_sentence(
    small: tuple[Batches, Batches],
    model: Callable[[], nn.Module],
    change: Callable[[Batches], object],
    message: str,
) -> None:
    with pytest.raises(UserError, match=f"^diagnose: .*{message}"):
        diagnose(model(), change(small[0]), small[1])  # type: ignore[arg-type]


class Shuffled:
    """A loader that gives other batches each time, or one batch less."""

    def __init__(self, data: Batches, is_shorter: bool = False) -> None:
        self.data, self.is_shorter, self.times = data, is_shorter, 0

    def __iter__(self) -> object:
        self.times += 1
        turned = self.data[self.times :] + self.data[: self.times]
        return iter(self.data[: len(self.data) - self.times] if self.is_shorter else turned)


def by_class(data: Batches) -> Batches:
    x_N, y_N = (torch.cat(parts) for parts in zip(*data, strict=True))
    order = y_N.argsort()
    return list(zip(x_N[order].split(32), y_N[order].split(32), strict=True))


# ------------------------------------------------------------ the table and the result


def test_an_unknown_cause_or_number_is_loud() -> None:
    with pytest.raises(KeyError, match="made_up"):
        sentences("made_up", {}, True, True)
    with pytest.raises(KeyError, match="updates"):
        sentences("warming_up", {"momentum": 0.1}, True, True)


def test_a_result_is_a_frame_a_chart_and_plain_values(small: tuple[Batches, Batches]) -> None:
    found = diagnose(never_updated(), *small)
    frame = found.to_frame()
    assert list(frame.cause) == ["never_updated"]
    assert frame.layers[0] == "1, 4, 7"
    assert frame.gives_back_low[0] == found.findings[0].gives_back.low  # type: ignore[union-attr]
    assert "given back" in json.dumps(found.plot().to_dict())
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert " ".join(plain["verdict"]) == found.verdict
    assert plain["findings"][0]["layers"] == ["1", "4", "7"]
    assert list(diagnose(healthy(), *small).to_frame().columns) == list(frame.columns)
