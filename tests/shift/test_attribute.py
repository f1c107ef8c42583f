"""The split of the shift and its origin, by hand on linear networks of two channels."""

import math

import pytest
import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift import attribute, find_origins, precise_statistics, probe
from suite.shift.layers import batch_norm_layers
from suite.shift.origins import Origin, Origins
from tests.helpers.layers import batch_norm

# Two channels: 1 3 and 0 4. Means 2 and 2, deviations 1 and 2.
X = torch.tensor([[1.0, 0.0], [3.0, 4.0]])


def by_hand() -> nn.Module:
    """BN, times 3 and 5, BN. The first takes 1 ± 2 for its first channel, and is right about the second."""
    times = nn.Linear(2, 2, bias=False)
    times.weight.data = torch.diag(torch.tensor([3.0, 5.0]))
    return nn.Sequential(batch_norm([1, 2], [2, 2]), times, batch_norm([0.5, 1], [2, 5]))


def deep(num_layers: int = 4) -> nn.Module:
    """A linear network with exact estimates for `images()` in one batch."""
    torch.manual_seed(0)
    parts = [part for _ in range(num_layers) for part in (nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False))]
    model = nn.Sequential(*parts)
    set_exact(model, [images()])
    return model


def images() -> Tensor:
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


def set_exact(model: nn.Module, batches: list[Tensor]) -> None:
    for name, (mean, var) in precise_statistics(model, batches).items():
        batch_norm_layers(model)[name].running_mean.copy_(mean)
        batch_norm_layers(model)[name].running_var.copy_(var)


def test_the_parts_by_hand() -> None:
    first, second = attribute(by_hand(), [X]).layers
    assert first.mu.own_C.tolist() == pytest.approx([1, 0])
    assert first.mu.inherited_C.tolist() == [0, 0]
    assert first.sigma.own_C.tolist() == pytest.approx([-1, 0])
    # In training mode the second layer is given ± 3 and ± 5, in inference mode 0 3 and ± 5.
    assert second.mu.own_C.tolist() == pytest.approx([-0.5, -1])
    assert second.mu.inherited_C.tolist() == pytest.approx([1.5, 0])
    assert second.sigma.own_C.tolist() == pytest.approx([1, 0])
    assert second.sigma.inherited_C.tolist() == pytest.approx([-1.5, 0])
    assert second.mu.esm == pytest.approx(math.sqrt(2))  # of (1, −1)
    assert (second.mu.own_norm, second.mu.inherited_norm) == pytest.approx((math.sqrt(1.25), 1.5))
    assert (second.mu.own, second.mu.inherited) == pytest.approx((0.5 / math.sqrt(2), 1.5 / math.sqrt(2)))
    assert second.mu.cosine == pytest.approx(-0.75 / (math.sqrt(1.25) * 1.5))
    assert (second.sigma.own, second.sigma.inherited, second.sigma.esm) == pytest.approx((-1, 1.5, 0.5))


def test_the_parts_add_up_to_the_probes_shift() -> None:
    model = deep()
    for layer in batch_norm_layers(model).values():
        layer.running_mean.normal_(0, 0.3)
        layer.running_var.uniform_(0.5, 2)
    batches = images().split(13)
    profile = probe(model, batches, per_channel=True)
    for split, whole in zip(attribute(model, batches).layers, profile.layers, strict=True):
        assert split.name == whole.name
        pairs = (
            (split.mu, whole.mu_difference_C, whole.esm_mu),
            (split.sigma, whole.sigma_difference_C, None),
        )
        for parts, difference_C, esm in pairs:
            torch.testing.assert_close(parts.own_C + parts.inherited_C, difference_C, rtol=0, atol=1e-12)
            assert parts.own + parts.inherited == pytest.approx(parts.esm, rel=1e-12)
            assert parts.esm == pytest.approx(float(difference_C.norm()) if esm is None else esm, rel=1e-12)


def test_the_sampling_error_of_a_share_is_its_standard_error() -> None:
    """200 draws of eight batches of 25, whose means are off by 1 / √200 in every direction."""
    torch.manual_seed(0)
    shares, errors = [], []
    for _ in range(200):
        model = nn.Sequential(batch_norm([-0.3, -0.4], [1, 1]))
        (layer,) = attribute(model, list(torch.randn(8, 25, 2))).layers
        shares.append(layer.mu.own)
        errors.append(layer.mu.own_error)
    deviation = float(torch.tensor(shares).std())
    assert deviation == pytest.approx(1 / math.sqrt(200), rel=0.2)
    assert float(torch.tensor(errors).square().mean().sqrt()) == pytest.approx(1 / math.sqrt(200), rel=0.2)


def test_the_sampling_error_of_shares_whose_parts_are_not_parallel() -> None:
    """Own (3, 3) and inherited (0, −2.5): the direction that they are projected on errs as well."""
    torch.manual_seed(0)
    shares, errors = [], []
    for _ in range(300):
        model = nn.Sequential(batch_norm([-3, -3], [1, 1]))
        training, images = torch.randn(8, 25, 2), torch.randn(8, 25, 2) + torch.tensor([0.0, -2.5])
        (layer,) = attribute(model, list(images), training_batches=list(training)).layers
        shares.append([layer.mu.own, layer.mu.inherited, layer.mu.esm])
        errors.append([layer.mu.own_error, layer.mu.inherited_error, layer.mu.esm_error])
    deviations = torch.tensor(shares).std(0) * math.sqrt(200)
    u, own = torch.tensor([3.0, 0.5]) / math.hypot(3, 0.5), torch.tensor([3.0, 3.0])
    across = (own - (own @ u) * u) / math.hypot(3, 0.5)
    # Training means err by e₁, evaluation means by e₂: own by e₁, inherited by e₂ − e₁, total by e₂.
    by_hand = torch.stack(
        [(u @ u + across @ across).sqrt(), (u @ u + (u - across) @ (u - across)).sqrt(), u.norm()]
    )
    torch.testing.assert_close(deviations, by_hand, rtol=0.15, atol=0)
    found = torch.tensor(errors).square().mean(0).sqrt() * math.sqrt(200)
    torch.testing.assert_close(found, by_hand, rtol=0.15, atol=0)


def test_sampling_errors_by_hand() -> None:
    """Batches of means 2 and 5, deviations 1 and 2; then the first once more: shares of 2 : 1."""
    one, other = torch.tensor([[1.0], [3.0]]), torch.tensor([[3.0], [7.0]])
    model = nn.Sequential(batch_norm([0], [1]))
    (layer,) = attribute(model, [one, other]).layers
    assert (layer.mu.own_error, layer.mu.esm_error) == pytest.approx((1.5, 1.5))
    assert (layer.sigma.own_error, layer.sigma.esm_error) == pytest.approx((0.5, 0.5))
    assert layer.mu.inherited_error == 0  # both populations are of the same images
    (layer,) = attribute(model, [one, other, one]).layers
    assert layer.mu.own_error == pytest.approx(3 * math.sqrt(2 / 9))
    (layer,) = attribute(model, [one]).layers
    assert math.isnan(layer.mu.own_error)
    # One batch of training and several to evaluate on: of what is inherited the error is not known.
    (layer,) = attribute(model, [one, one + 1], training_batches=[one]).layers
    assert math.isnan(layer.mu.own_error)
    assert math.isnan(layer.mu.inherited_error)
    assert layer.mu.esm_error > 0


def test_the_generalisation_gap_is_inherited_when_training_batches_are_given() -> None:
    """Means: of training data 2, of evaluation data 5, estimated 1. So 1 is own and 3 inherited; or 4 own."""
    model = nn.Sequential(batch_norm([1], [1]))
    training, evaluation = [torch.tensor([[1.0], [3.0]])], [torch.tensor([[3.0], [7.0]])]
    (layer,) = attribute(model, evaluation, training_batches=iter(training)).layers
    assert (layer.mu.own, layer.mu.inherited) == pytest.approx((1, 3))
    (layer,) = attribute(model, evaluation).layers
    assert (layer.mu.own, layer.mu.inherited) == pytest.approx((4, 0))


def test_no_shift_has_no_direction() -> None:
    (layer,) = attribute(nn.Sequential(batch_norm([2, 2], [1, 2])), [X]).layers
    assert (layer.mu.esm, layer.mu.own, layer.mu.inherited) == (0, 0, 0)
    assert math.isnan(layer.mu.cosine)


def test_an_origin_by_hand() -> None:
    """With the first layer exact, the second is given ± 3 and ± 5, and only its own error is left.

    With the second exact, what it inherits is left of it, and all of the first one's.
    """
    origins = find_origins(by_hand(), [X])
    first, second = origins.layers
    assert (first.name, first.depth, first.num_layers_behind) == ("0", 0, 1)
    assert first.esm_mu_vanished == pytest.approx((1 + math.sqrt(2) - math.sqrt(1.25)) / 2)
    assert first.esm_sigma_vanished == pytest.approx((1 + 0.5 - 1) / 2)  # its error had hidden the second's
    inherited = attribute(by_hand(), [X]).layers[1].sigma.inherited_norm
    assert second.esm_sigma_vanished == pytest.approx((0.5 - inherited) / 2)
    assert origins.starts == "0"
    # Together: (1, 1) and (√2, ½) before; 0 and (√1.25, 1) with the first exact.
    both = (math.sqrt(2) + 1.5) / 2
    assert origins.esm == pytest.approx(both)
    assert first.esm_vanished == pytest.approx(both - 1.5 / 2)
    # Given means of 2, 2 and 1.5, 0; deviations of 1, 2 and 1.5, 5.
    assert origins.scale == pytest.approx((math.sqrt(13) + math.sqrt(29.5)) / 2)
    assert (origins.esm_mu, origins.esm_sigma) == pytest.approx(((1 + math.sqrt(2)) / 2, (1 + 0.5) / 2))
    assert first.top1_gain_percent is None


def test_where_nothing_vanishes_no_layer_starts_it() -> None:
    """An exact network has nothing to mend; and where only hiding errors are left, mending makes it worse."""
    assert find_origins(deep(), [images()]).starts is None
    worse = Origin("a", 0, 0, -0.5, -0.3, -0.4, None)
    assert Origins((worse,), 1.0, 0.6, 0.8, 1.0, None, {}).starts is None
    assert Origins((), 1.0, 0.6, 0.8, 1.0, None, {}).starts is None


@pytest.mark.parametrize("planted", [0, 1, 2, 3])
@pytest.mark.parametrize("statistic", ["mu", "sigma"])
def test_the_layer_with_one_wrong_statistic_starts_it(planted: int, statistic: str) -> None:
    model = deep()
    layer = list(batch_norm_layers(model).values())[planted]
    if statistic == "mu":
        layer.running_mean += 0.4 * torch.randn(8, generator=torch.Generator().manual_seed(2))
    else:
        layer.running_var *= torch.linspace(0.3, 3, 8)
    origins = find_origins(model, [images()])
    assert origins.starts == list(batch_norm_layers(model))[planted]
    assert origins.layers[planted].esm_vanished == pytest.approx(origins.esm, rel=1e-4)


@pytest.mark.parametrize("planted", [0, 1, 2, 3])
def test_the_layer_with_a_planted_error_starts_it(planted: int) -> None:
    model, x = deep(), images()
    labels = model.eval()(x).argmax(1)
    name = list(batch_norm_layers(model))[planted]
    layer = batch_norm_layers(model)[name]
    layer.running_mean += 0.4 * torch.randn(8, generator=torch.Generator().manual_seed(2))
    layer.running_var *= torch.linspace(0.3, 3, 8)
    batches = [(x, labels)]
    origins = find_origins(model, batches)
    assert origins.starts == name
    profile = probe(model, batches)
    for origin in origins.layers:
        expected = profile.mean("esm_sigma") if origin.name == name else 0.0
        assert origin.esm_sigma_vanished == pytest.approx(expected, abs=1e-5)
        gain = 100 - origins.top1_percent if origin.name == name else 0.0
        assert origin.top1_gain_percent == pytest.approx(gain)
    assert origins.top1_percent < 95
    # The shift is the planted layer's own, and all of it inherited behind.
    for depth, split in enumerate(attribute(model, batches).layers):
        if depth != planted:
            assert split.sigma.own_norm < 1e-5
        assert (split.sigma.inherited_norm > 1e-2) == (depth > planted)


def test_chosen_layers_in_forward_order_and_an_unknown_one() -> None:
    origins = find_origins(deep(), [images()], layers=["5", "1"])
    assert [origin.name for origin in origins.layers] == ["1", "5"]
    with pytest.raises(
        UserError, match=r"find_origins: 'bn9' is not a BN layer that keeps estimates; valid: 1, 3, 5, 7"
    ):
        find_origins(deep(), [images()], layers=["bn9"])
