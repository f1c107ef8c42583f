"""TID from the running averages against TID from the batches themselves, in float64."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from suite.errors import UserError
from suite.models.batch_norm import GhostBatchNorm2d, set_norm_batch_size
from suite.shift import TidMeter
from tests.helpers.ranks import on_ranks

NUM_STEPS, BATCH = 6, 12


def network(momentum: float | None) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)
    )
    for i in (1, 4):
        model[i].momentum = momentum
    return model


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, 3, 7, 7, generator=generator) * (1 + i) + i for i in range(NUM_STEPS)]


def train(model: nn.Module, after_pass: Callable[[], None]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for x in batches():
        loss = model(x).square().mean()
        after_pass()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


class Direct:
    """TID from each batch of every BN layer, as in the paper's code: biased variance, updated estimates."""

    def __init__(self, layers: list[nn.Module], eps: float) -> None:
        self.layers, self.eps = layers, eps
        self.inputs: list[Tensor] = []
        self.sums = torch.zeros(2, len(layers), dtype=torch.float64)
        for layer in layers:
            layer.register_forward_pre_hook(lambda _, args: self.inputs.append(args[0].detach().double()))

    def update(self) -> None:
        for i, (layer, x) in enumerate(zip(self.layers, self.inputs, strict=True)):
            x_CM = x.transpose(0, 1).flatten(1)
            mean, sigma = x_CM.mean(1), (x_CM.var(1, correction=0) + self.eps).sqrt()
            run_mean = layer.running_mean.double()
            run_sigma = (layer.running_var.double() + self.eps).sqrt()
            self.sums[0, i] += ((run_mean - mean).abs() / sigma).mean()
            self.sums[1, i] += (run_sigma / sigma - 1).abs().mean()
        self.inputs.clear()


@pytest.mark.parametrize("momentum", [0.1, 0.01, 1.0, None])
def test_tid_agrees_with_the_batches_themselves(momentum: float | None) -> None:
    model = network(momentum)
    meter = TidMeter(model, torch.zeros(1, 3, 7, 7), norm_batch_size=BATCH)
    exact, released = (Direct([model[1], model[4]], eps) for eps in (1e-5, 0.0))

    def after_pass() -> None:
        for one in (meter, exact, released):
            one.update()

    train(model, after_pass)
    assert (list(meter.layers), meter.num_passes_L.tolist()) == (["1", "4"], [NUM_STEPS] * 2)
    tid_mu, tid_sigma = meter.pop_epoch_means()
    # float32 leaves the recovered statistics an error of about 2⁻²⁴ / momentum.
    assert tid_mu == pytest.approx((exact.sums[0] / NUM_STEPS).tolist(), rel=3e-4, abs=1e-6)
    assert tid_sigma == pytest.approx((exact.sums[1] / NUM_STEPS).tolist(), rel=3e-4, abs=1e-6)
    assert tid_mu == pytest.approx((released.sums[0] / NUM_STEPS).tolist(), rel=1e-3, abs=1e-6)
    assert meter.pop_epoch_means() == ([], [])


def test_one_step_by_hand() -> None:
    """Batch 1 3: mean 2, variances 1 and 2. Momentum 0.5 from 0 and 1: μ_run 1, σ_run² 1.5."""
    model = nn.Sequential(nn.BatchNorm1d(1, momentum=0.5, eps=1e-12))
    meter = TidMeter(model, torch.zeros(2, 1), norm_batch_size=2)
    model.train()(torch.tensor([[1.0], [3.0]]))
    meter.update()
    tid_mu, tid_sigma = meter.pop_epoch_means()
    assert (tid_mu[0], tid_sigma[0]) == pytest.approx((1.0, 1.5**0.5 - 1))


def test_ghost_groups_give_the_tid_of_their_weighted_mean() -> None:
    """Three groups of 4 with momentum 0.1: weights 0.81, 0.9 and 1, the newest weighing most."""
    x = batches()[0]
    model = nn.Sequential(GhostBatchNorm2d(3, 4))
    meter = TidMeter(model, x[:1], norm_batch_size=4)
    model.train()(x)
    meter.update()
    weights = torch.tensor([0.81, 0.9, 1.0], dtype=torch.float64)
    groups = [part.double().transpose(0, 1).flatten(1) for part in x.split(4)]
    mean = sum(w * g.mean(1) for w, g in zip(weights, groups, strict=True)) / weights.sum()
    var = sum(w * g.var(1, correction=0) for w, g in zip(weights, groups, strict=True)) / weights.sum()
    tid_mu, tid_sigma = meter.pop_epoch_means()
    expected = ((model[0].running_mean - mean).abs() / (var + 1e-5).sqrt()).mean()
    assert tid_mu == [pytest.approx(float(expected), rel=1e-4)]
    run_sigma = (model[0].running_var.double() + 1e-5).sqrt()
    assert tid_sigma == [pytest.approx(float((run_sigma / (var + 1e-5).sqrt() - 1).abs().mean()), rel=1e-4)]


def test_a_module_called_twice_is_updated_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.bn(x) + x)

    x, model = torch.randn(8, 3), Twice()
    meter = TidMeter(model, x, norm_batch_size=8)
    model.train()(x)
    meter.update()
    second = (nn.functional.batch_norm(x, None, None, training=True) + x).double()
    mean = (0.9 * x.double().mean(0) + second.mean(0)) / 1.9
    var = (0.9 * x.double().var(0, correction=0) + second.var(0, correction=0)) / 1.9
    expected = ((model.bn.running_mean - mean).abs() / (var + 1e-5).sqrt()).mean()
    assert meter.pop_epoch_means()[0] == [pytest.approx(float(expected), rel=1e-4)]


def test_a_loaded_meter_continues_as_if_never_stopped() -> None:
    x = batches()
    undisturbed = network(None)
    meter = TidMeter(undisturbed, x[0][:1], norm_batch_size=BATCH)
    for part in x:
        undisturbed.train()(part)
        meter.update()
        if meter.num_passes_L[0] == 2:
            meter.pop_interval_means()
        if meter.num_passes_L[0] == 3:
            weights = {n: v.clone() for n, v in undisturbed.state_dict().items()}
            state = meter.state()
    other = network(None)
    resumed = TidMeter(other, x[0][:1], norm_batch_size=BATCH)
    other.load_state_dict(weights)
    resumed.load(state)
    for part in x[3:]:
        other.train()(part)
        resumed.update()
    assert resumed.pop_interval_means() == meter.pop_interval_means()
    assert resumed.pop_epoch_means() == meter.pop_epoch_means()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_several_passes_at_once_give_the_same(momentum: float | None) -> None:
    """Four at once, as on a GPU: six passes, a layer frozen in one of them, an interval and a restart."""
    model = network(momentum)
    meters = [TidMeter(model, batches()[0], norm_batch_size=BATCH, passes_at_once=count) for count in (1, 4)]
    found = list[list[tuple[list[float], list[float]]]]()
    for step, x in enumerate(batches()):
        model.train()[4].train(step != 1)
        model(x)
        for meter in meters:
            meter.update()
        if step == 2:
            found.append([meter.pop_interval_means() for meter in meters])
        if step == 4:
            model[1].running_mean.mul_(2)  # another client's
            for meter in meters:
                meter.restart()
    assert meters[1].num_passes_L.tolist() == meters[0].num_passes_L.tolist() == [6, 5]
    found.append([meter.pop_epoch_means() for meter in meters])
    for one, several in found:
        for a, b in zip(one, several, strict=True):
            assert a == pytest.approx(b, rel=1e-5)


def test_the_newest_passes_within_an_epoch() -> None:
    model = network(0.1)
    meter = TidMeter(model, batches()[0][:1], norm_batch_size=BATCH)
    means = []
    for count, x in enumerate(batches(), start=1):
        model.train()(x)
        meter.update()
        if count in (2, 5):
            means.append(meter.pop_interval_means()[0][0])
    means.append(meter.pop_interval_means()[0][0])
    assert meter.pop_interval_means() == ([], [])
    assert meter.pop_epoch_means()[0][0] == pytest.approx((2 * means[0] + 3 * means[1] + means[2]) / 6)
    assert len(set(means)) == 3
    model(batches()[0])
    meter.update()
    assert meter.pop_interval_means() == meter.pop_epoch_means()


def test_layers_in_the_order_of_the_forward_pass_whatever_their_norm_batch() -> None:
    model = torchvision.models.resnet18(num_classes=10)
    set_norm_batch_size(model, 4, 8, torch.device("cpu"))
    meter = TidMeter(model, torch.zeros(1, 3, 32, 32), norm_batch_size=4)
    names = list(meter.layers)
    assert names[:3] == ["bn1", "layer1.0.bn1", "layer1.0.bn2"]
    assert names.index("layer2.0.bn2") < names.index("layer2.0.downsample.1")
    assert all((model.get_submodule(n).num_batches_tracked == 0) for n in names)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_pass_counts_for_the_layers_that_it_updates(momentum: float | None) -> None:
    """The second layer is frozen in every second pass: its TID is that of the others alone."""
    model = network(momentum)
    meter = TidMeter(model, batches()[0], norm_batch_size=BATCH)
    sums = torch.zeros(2, dtype=torch.float64)
    for step, x in enumerate(batches()):
        model.train()[4].train(step % 2 == 0)
        direct = Direct([model[4]], 1e-5)
        model(x)
        direct.update()
        meter.update()
        if step % 2 == 0:
            sums += direct.sums[:, 0]
    assert meter.num_passes_L.tolist() == [NUM_STEPS, NUM_STEPS / 2]
    tid_mu, tid_sigma = meter.pop_epoch_means()
    expected = (sums / (NUM_STEPS / 2)).tolist()
    assert [tid_mu[1], tid_sigma[1]] == pytest.approx(expected, rel=3e-4, abs=1e-6)


def test_a_layer_that_is_never_updated_has_no_tid_and_a_momentum_of_zero_is_refused() -> None:
    model = network(0.1)
    meter = TidMeter(model, batches()[0], norm_batch_size=BATCH)
    model.eval()(batches()[0])
    meter.update()
    assert meter.pop_epoch_means() == ([], [])
    model.train()[1].eval()
    model(batches()[0])
    meter.update()
    tid_mu, tid_sigma = meter.pop_epoch_means()
    assert math.isnan(tid_mu[0])
    assert math.isnan(tid_sigma[0])
    assert tid_mu[1] > 0
    with pytest.raises(UserError, match="1 has momentum 0"):
        TidMeter(network(0.0), batches()[0], norm_batch_size=BATCH)
    with pytest.raises(UserError, match="TID: Linear has no BN layer"):
        TidMeter(nn.Linear(2, 2), torch.zeros(1, 2), norm_batch_size=2)


def tid_of_the_first_rank_alone(rank: int, world_size: int) -> list[float]:
    """Only the first rank has a meter, as in training: it must not wait for the others."""
    if rank:
        return []
    model = network(0.1)
    meter = TidMeter(model, batches()[0][:1], norm_batch_size=BATCH)
    train(model, meter.update)
    return meter.pop_epoch_means()[0]


def test_one_rank_among_others(tmp_path: Path) -> None:
    first, second = on_ranks(tid_of_the_first_rank_alone, 2, tmp_path)
    assert first == pytest.approx(tid_of_the_first_rank_alone(0, 1), rel=1e-5)
    assert second == []
