"""Networks as people have them, and what a diagnosis refuses; its table of causes and its result."""

import functools
import json
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from suite.errors import UserError
from suite.shift import diagnose
from suite.shift.diagnosis.causes import sentences
from tests.helpers.diagnosis_plants import NAN, healthy, never_updated
from tests.helpers.trained_network import Batches, batches, network, train


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


def test_a_network_of_constants_alone(small: tuple[Batches, Batches]) -> None:
    """Nothing of it is estimated, and its constants can be wrong all the same."""
    model = network(norm=lambda width, momentum: FrozenBatchNorm2d(width))
    model.load_state_dict({n: v for n, v in healthy().state_dict().items() if "num_batches" not in n})
    assert diagnose(model, *small).findings == ()
    for index in (1, 4, 7):
        model[index].running_mean += 2 * model[index].running_var.sqrt()
    (finding,) = diagnose(model, *small).findings
    assert (finding.cause, finding.is_harmful) == ("frozen", True)
    assert "all 3 BN layers have stopped following the training: they are constants" in finding.sentence


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
