"""The split of the shift and its origin, by hand on linear networks of two channels."""

import math

import pytest
import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift import attribute, find_origins, precise_statistics, probe
from suite.shift.layers import batch_norm_layers
from suite.shift.origins import Origin, Origins
from suite.shift.resample import jackknife_error
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
    first, second = attribute(by_hand(), [X], scaled=False).layers
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
    for split, whole in zip(attribute(model, batches, scaled=False).layers, profile.layers, strict=True):
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
        (layer,) = attribute(model, list(torch.randn(8, 25, 2)), scaled=False).layers
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
        (layer,) = attribute(model, list(images), training_batches=list(training), scaled=False).layers
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
    (layer,) = attribute(model, [one, other], scaled=False).layers
    assert (layer.mu.own_error, layer.mu.esm_error) == pytest.approx((1.5, 1.5))
    assert (layer.sigma.own_error, layer.sigma.esm_error) == pytest.approx((0.5, 0.5))
    assert layer.mu.inherited_error == 0  # both populations are of the same images
    (layer,) = attribute(model, [one, other, one], scaled=False).layers
    assert layer.mu.own_error == pytest.approx(1)  # of means 2, 5 and 2
    (layer,) = attribute(model, [one], scaled=False).layers
    assert math.isnan(layer.mu.own_error)
    # One batch of training and several to evaluate on: of what is inherited the error is not known.
    (layer,) = attribute(model, [one, one + 1], training_batches=[one], scaled=False).layers
    assert math.isnan(layer.mu.own_error)
    assert math.isnan(layer.mu.inherited_error)
    assert layer.mu.esm_error > 0


def test_the_sampling_error_of_correlated_channels_is_that_of_repeated_samples() -> None:
    """Channels correlate by 0.64: errors summed over independent channels would be 0.6 of the true one."""
    torch.manual_seed(0)
    found = []
    for _ in range(200):
        x_BNC = 0.8 * torch.randn(12, 25, 1) + 0.6 * torch.randn(12, 25, 16) + 0.4
        (layer,) = attribute(nn.Sequential(nn.BatchNorm1d(16)), list(x_BNC), scaled=False).layers
        found.append([layer.mu.esm, layer.mu.esm_error])
    esm, error = torch.tensor(found).T
    assert float(error.square().mean().sqrt()) == pytest.approx(float(esm.std()), rel=0.15)


def test_the_jackknife_of_unequal_groups_by_hand() -> None:
    """The mean of 0 and of three values of 4: 3. Shares ¼ and ¾, pseudo-values 0 and 4, centre 3."""
    error = jackknife_error(3.0, torch.tensor([4.0, 0.0, 3.0]), torch.tensor([0.25, 0.75, 0.0]))
    by_hand = math.sqrt(((0 - 3) ** 2 * (0.25 / 0.75) + (4 - 3) ** 2 * (0.75 / 0.25)) / 2)
    assert error == pytest.approx(by_hand)


def test_scaled_parts_do_not_depend_on_a_channels_unit() -> None:
    """The second channel, and what is estimated of it, times 100: its share of the raw shift is all of it."""
    model, larger = by_hand(), by_hand()
    x, unit = torch.cat([X, X + 1]), torch.tensor([1.0, 100.0])
    larger[0].running_mean.mul_(unit)
    larger[0].running_var.mul_(unit**2)
    larger[0].eps = model[0].eps = 1e-12
    for of_mean in (lambda m, x: attribute(m, [x]), lambda m, x: find_origins(m, [x])):
        one, other = (of_mean(m, here).layers[0] for m, here in ((model, x), (larger, x * unit)))
        numbers = (vars(one.mu), vars(other.mu)) if hasattr(one, "mu") else (vars(one), vars(other))
        names = [name for name in numbers[0] if isinstance(numbers[0][name], float) and "error" not in name]
        for name in names:
            assert numbers[0][name] == pytest.approx(numbers[1][name], nan_ok=True), name


def test_how_often_a_layer_is_selected() -> None:
    """A planted error is found in every resample; of two equal ones in parallel, each in about half."""
    model = deep()
    batch_norm_layers(model)["3"].running_var *= torch.linspace(0.3, 3, 8)
    batches = list(torch.randn(320, 8, generator=torch.Generator().manual_seed(3)).split(16))
    set_exact(model, batches)
    batch_norm_layers(model)["3"].running_var *= torch.linspace(0.3, 3, 8)
    found = find_origins(model, batches)
    assert {one.name: one.selected_percent for one in found.layers} == {"1": 0, "3": 100, "5": 0, "7": 0}
    planted = found.layers[1]
    assert 0 < planted.esm_vanished_error < 0.2 * planted.esm_vanished

    twins = Twins()
    batches = [torch.randn(16, 8, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    shares = [one.selected_percent for one in find_origins(twins, batches).layers]
    assert sum(shares) == 100
    assert min(shares) > 10
    assert all(math.isnan(one.selected_percent) for one in find_origins(twins, batches[:1]).layers)


class Twins(nn.Module):
    """Two BN layers that see different channels with the same statistics, and know nothing of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = (2 * x + 1).chunk(2, dim=1)
        return torch.cat([self.one(left), self.other(right)], dim=1)


def test_the_generalisation_gap_is_inherited_when_training_batches_are_given() -> None:
    """Means: of training data 2, of evaluation data 5, estimated 1. So 1 is own and 3 inherited; or 4 own."""
    model = nn.Sequential(batch_norm([1], [1]))
    training, evaluation = [torch.tensor([[1.0], [3.0]])], [torch.tensor([[3.0], [7.0]])]
    (layer,) = attribute(model, evaluation, training_batches=iter(training), scaled=False).layers
    assert (layer.mu.own, layer.mu.inherited) == pytest.approx((1, 3))
    (layer,) = attribute(model, evaluation, scaled=False).layers
    assert (layer.mu.own, layer.mu.inherited) == pytest.approx((4, 0))


def test_no_shift_has_no_direction() -> None:
    (layer,) = attribute(nn.Sequential(batch_norm([2, 2], [1, 2])), [X]).layers
    assert (layer.mu.esm, layer.mu.own, layer.mu.inherited) == (0, 0, 0)
    assert math.isnan(layer.mu.cosine)


def test_an_origin_by_hand() -> None:
    """With the first layer exact, the second is given ± 3 and ± 5, and only its own error is left.

    With the second exact, what it inherits is left of it, and all of the first one's.
    """
    origins = find_origins(by_hand(), [X], scaled=False)
    first, second = origins.layers
    assert (first.name, first.depth, first.num_layers_behind) == ("0", 0, 1)
    assert first.esm_mu_vanished == pytest.approx((1 + math.sqrt(2) - math.sqrt(1.25)) / 2)
    assert first.esm_sigma_vanished == pytest.approx((1 + 0.5 - 1) / 2)  # its error had hidden the second's
    inherited = attribute(by_hand(), [X], scaled=False).layers[1].sigma.inherited_norm
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
    worse = Origin("a", 0, 0, -0.5, -0.3, -0.4, 0.1, 0, None)
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
        expected = profile.mean("esm_sigma_scaled") if origin.name == name else 0.0
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
