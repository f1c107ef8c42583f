"""What a user may bring: every kind of BN, none, untrained ones, odd networks, empty or lonely batches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift import attribute, find_origins, perturb, precise_statistics, probe, remedies

MEASURES = {"attribute": attribute, "find_origins": find_origins, "remedies": remedies, "perturb": perturb}
EVERYTHING = [pytest.param(measure, id=name) for name, measure in MEASURES.items()]


def labelled(shape: tuple[int, ...] = (6, 4), sizes: tuple[int, ...] = (6, 6)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, *shape[1:], generator=generator), torch.arange(n) % 4) for n in sizes]


def mlp(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, **settings), nn.Linear(4, 4))


@pytest.mark.parametrize("measure", EVERYTHING)
def test_a_network_without_bn(measure: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="Sequential has no BN layer, so nothing is estimated"):
        measure(nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4)), labelled())


@pytest.mark.parametrize("measure", [probe, *MEASURES.values()])
def test_a_lazy_layer_that_never_ran(measure: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="1 is not initialised: run a batch through it first"):
        measure(nn.Sequential(nn.Linear(4, 4), nn.LazyBatchNorm1d()), labelled())


@pytest.mark.parametrize("measure", EVERYTHING)
def test_a_network_that_keeps_no_statistics(measure: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="none of its 1 BN layers keeps running statistics"):
        measure(mlp(track_running_stats=False), labelled())


@pytest.mark.parametrize("measure", EVERYTHING)
def test_beside_layers_that_keep_none_the_others_are_measured(measure: Callable[..., Any]) -> None:
    model = nn.Sequential(mlp(track_running_stats=False), mlp())
    measure(model, labelled())
    if measure is attribute:
        result = attribute(model, labelled())
        assert [layer.name for layer in result.layers] == ["1.1"]
        assert result.skipped == {"0.1": "keeps no running statistics"}


@pytest.mark.parametrize("measure", [probe, precise_statistics, *MEASURES.values()])
@pytest.mark.parametrize("batches", [[], [(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))]])
def test_an_empty_loader(measure: Callable[..., Any], batches: list[Any]) -> None:
    with pytest.raises(UserError, match="no images; the batches are empty"):
        measure(mlp(), batches)


@pytest.mark.parametrize("measure", [precise_statistics, attribute, find_origins, remedies])
def test_a_batch_of_one(measure: Callable[..., Any]) -> None:
    batches = labelled(sizes=(6, 1))
    with pytest.raises(
        UserError, match=r"1 normalises with its batch, .* one value per channel .* drop the last"
    ):
        measure(mlp(), batches)
    assert probe(mlp(), batches).num_images == 7  # inference needs no batch
    perturb(mlp(), batches, [0.1], draws=1)


def test_one_image_of_many_pixels_is_a_batch() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4))
    images = torch.randn(1, 4, 3, 3)
    mean, var = precise_statistics(model, [images])["0"]
    torch.testing.assert_close(mean.float(), images.mean((0, 2, 3)))
    torch.testing.assert_close(var.float(), images.var((0, 2, 3), correction=0))


def test_layers_that_never_trained_are_reported() -> None:
    fresh, trained = mlp(), mlp()
    trained.train()(labelled()[0][0])
    told = "its estimates are the initial 0 and 1: no training batch has updated them"
    for measure in (probe, *MEASURES.values()):
        assert measure(fresh, labelled()).notes == {"1": told}, measure  # type: ignore[operator]
        assert measure(trained, labelled()).notes == {}, measure  # type: ignore[operator]
    # A checkpoint of old, which knows the estimates but not how many batches made them.
    trained[1].num_batches_tracked.zero_()
    assert probe(trained, labelled()).notes == {}


@pytest.mark.parametrize("measure", EVERYTHING)
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.BatchNorm1d, (6, 4)),
        (nn.BatchNorm1d, (6, 4, 5)),
        (nn.BatchNorm2d, (6, 4, 3, 3)),
        (nn.BatchNorm3d, (6, 4, 2, 3, 2)),
        (nn.SyncBatchNorm, (6, 4, 3, 3)),
    ],
)
def test_every_kind_of_bn(measure: Callable[..., Any], kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    model = nn.Sequential(kind(4), _Pool())
    batches = labelled(shape)
    measure(model, batches)
    (layer,) = attribute(model, batches).layers
    x_CM = torch.cat([x for x, _ in batches]).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.mu.own_C, x_CM.mean(1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(layer.sigma.own_C, x_CM.std(1, correction=0) - 1, rtol=1e-5, atol=1e-7)


class _Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2) if x.dim() > 2 else x


@pytest.mark.parametrize("measure", EVERYTHING)
def test_a_cumulative_average(measure: Callable[..., Any]) -> None:
    model = mlp(momentum=None)
    measure(model, labelled())
    assert model[1].momentum is None


class Twice(nn.Module):
    """One BN module on a branch that depends on the data, one that is called twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.rare, self.idle = (nn.BatchNorm1d(4) for _ in range(3))
        for layer in (self.shared, self.rare):
            layer.num_batches_tracked += 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(input=self.shared(x) + 3)  # by keyword once
        return self.rare(x) if len(x) > 5 else x


@pytest.mark.parametrize("measure", EVERYTHING)
def test_shared_rare_and_idle_layers(measure: Callable[..., Any]) -> None:
    measure(Twice(), labelled(sizes=(6, 4, 6)))


def test_shared_rare_and_idle_layers_are_reported() -> None:
    x = labelled(sizes=(6, 4, 6))
    for result in (probe(Twice(), x, per_channel=True), attribute(Twice(), x)):
        assert [layer.name for layer in result.layers] == ["shared", "rare"]
        assert result.skipped == {"idle": "not called in the forward pass"}
        assert result.notes == {
            "shared": "called 6 times in 3 batches: its statistics are over all calls",
            "rare": "called in 2 of 3 batches: its numbers are over those",
        }
    # The shared one is given x and x + 3 (its estimates are 0 and 1): on average 1.5 more than x.
    profile = probe(Twice(), x, per_channel=True)
    everything = torch.cat([images for images, _ in x]).double()
    torch.testing.assert_close(
        profile.layers[0].mu_difference_C, everything.mean(0) + 1.5, rtol=1e-4, atol=1e-4
    )


def test_a_layer_that_only_training_mode_reaches() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x) if self.first.training else x

    result = attribute(Moody(), labelled())
    assert [layer.name for layer in result.layers] == ["first"]
    assert result.skipped == {"second": "not called in the forward pass"}
    assert [origin.name for origin in find_origins(Moody(), labelled()).layers] == ["first"]


def test_half_precision_whose_sums_would_overflow() -> None:
    """20 × 5000 is beyond float16's 65504; so is the square of 300."""
    model = nn.Sequential(nn.BatchNorm1d(2)).half()
    x = torch.tensor([[5000.0, 300.0], [5000.0, -300.0]]).half().repeat(10, 1)
    (layer,) = probe(model, [x], per_channel=True).layers
    assert layer.mu_difference_C.tolist() == pytest.approx([5000, 0])
    assert layer.sigma_difference_C.tolist() == pytest.approx([-1, 299])
    mean, var = precise_statistics(model, [x])["0"]
    assert (mean.tolist(), var.tolist()) == (pytest.approx([5000, 0]), pytest.approx([0, 90000]))
    for measure in (find_origins, remedies):
        with pytest.raises(UserError, match=r"0: its statistics do not fit torch\.float16"):
            measure(nn.Sequential(model, nn.Linear(2, 2).half()), [(x, torch.zeros(20).long())])


def test_activations_that_overflow_are_reported_and_the_others_measured() -> None:
    model = nn.Sequential(mlp(), mlp())
    with torch.no_grad():
        model[0][2].weight.fill_(3e38)
        model[0][2].weight.mul_(3e38)
    profile = probe(model, labelled())
    first, second = profile.layers
    assert torch.isfinite(torch.tensor([first.esm_mu, first.esm_sigma])).all()
    assert not torch.isfinite(torch.tensor(second.esm_sigma))
    assert "its inputs are not finite" in profile.notes["1.1"]
    assert "not finite" not in profile.notes["0.1"]
