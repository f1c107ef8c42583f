"""The intervals of paired differences, and what is observed over batches, by hand and by simulation."""

import math

import pytest
import torch
from torch import Tensor, nn

from suite.models import set_norm_batch_size
from suite.shift.diagnosis.distances import noise, sampling_error
from suite.shift.diagnosis.images import few_samples
from suite.shift.diagnosis.observe import BatchWatch, observe
from suite.shift.diagnosis.paired import paired_change, unpaired_change

CPU = torch.device("cpu")


def pair(both: int, only_before: int, only_after: int, neither: int) -> tuple[Tensor, Tensor]:
    """Which images are right before and after, of so many of each kind."""
    kinds = [(True, True)] * both + [(True, False)] * only_before
    kinds += [(False, True)] * only_after + [(False, False)] * neither
    before, after = zip(*kinds, strict=True)
    return torch.tensor(before), torch.tensor(after)


def test_a_paired_interval_by_hand() -> None:
    """Bonett and Price: of 100 images 12 gained and 4 lost, so p = 13/102 and q = 5/102."""
    change = paired_change(*pair(60, 4, 12, 24))
    half = 1.959964 * math.sqrt((18 / 102 - (8 / 102) ** 2) / 102)
    assert change.points == pytest.approx(8)
    assert (change.low, change.high) == pytest.approx((100 * (8 / 102 - half), 100 * (8 / 102 + half)))
    assert str(change) == "+8.0 points [−0.2, +15.9]"


def test_an_unpaired_interval_by_hand() -> None:
    """Agresti and Caffo: 80 of 100 and 45 of 50 are 81/102 and 46/52."""
    change = unpaired_change(torch.arange(100) < 80, torch.arange(50) < 45)
    p, q = 81 / 102, 46 / 52
    half = 1.959964 * math.sqrt(p * (1 - p) / 102 + q * (1 - q) / 52)
    assert change.points == pytest.approx(10)
    assert (change.low, change.high) == pytest.approx((100 * (q - p - half), 100 * (q - p + half)))


@pytest.mark.parametrize("same", [True, False])
def test_equal_networks_gain_nothing(same: bool) -> None:
    change = paired_change(*(pair(50, 0, 0, 0) if same else pair(40, 5, 5, 0)))
    assert change.points == 0
    assert change.low == pytest.approx(-change.high)
    assert change.high > 0
    assert not change.is_gain


@pytest.mark.parametrize("num_images", [50, 200, 1000])
@pytest.mark.parametrize(("gained", "lost"), [(0.01, 0.01), (0.03, 0.0), (0.08, 0.02), (0.4, 0.1)])
def test_paired_intervals_cover(num_images: int, gained: float, lost: float) -> None:
    """The truth lies within nearly 95 % of them, also where few images change; and they are not too wide."""
    generator = torch.Generator().manual_seed(0)
    kinds_RN = torch.rand(2000, num_images, generator=generator)
    changes = [
        paired_change((kinds_N < lost), (kinds_N >= lost) & (kinds_N < lost + gained)) for kinds_N in kinds_RN
    ]
    truth = 100 * (gained - lost)
    covered = sum(change.low <= truth <= change.high for change in changes) / len(changes)
    assert covered >= 0.935
    if num_images * min(gained, lost) >= 10:
        assert covered <= 0.97
    false_alarms = sum(change.low > truth for change in changes) / len(changes)
    assert false_alarms <= 0.035


@pytest.mark.parametrize("num_images", [60, 500])
@pytest.mark.parametrize(("first", "second"), [(0.99, 0.97), (0.9, 0.8), (0.5, 0.5)])
def test_unpaired_intervals_cover(num_images: int, first: float, second: float) -> None:
    generator = torch.Generator().manual_seed(1)
    numbers = torch.rand(2, 2000, num_images, generator=generator)
    rights = zip(numbers[0] < first, numbers[1] < second, strict=True)
    changes = [unpaired_change(*pair) for pair in rights]
    truth = 100 * (second - first)
    assert sum(change.low <= truth <= change.high for change in changes) / len(changes) >= 0.935


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("ghost", [None, 4])
def test_averages_are_those_of_the_layer(momentum: float | None, ghost: int | None) -> None:
    """From any start, and before the last batch."""
    generator = torch.Generator().manual_seed(2)
    model: nn.Module = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum))
    if ghost is not None:
        # All groups of a batch alike: the average of ghost groups is then that of whole batches.
        model = set_norm_batch_size(model, ghost, 8, CPU)
    layer = model[0]
    layer.running_mean.normal_(generator=generator)
    layer.num_batches_tracked.fill_(5)
    start = layer.running_mean.clone(), layer.running_var.clone()
    watch = BatchWatch(layer)
    seen = []
    for _ in range(4):
        x = torch.randn(ghost or 8, 3, 2, 2, generator=generator)
        x = torch.cat([x, x]) if ghost is not None else x
        values = x.transpose(0, 1).flatten(1).double()
        count = values.shape[1] if ghost is None else values.shape[1] // 2
        var, mean = torch.var_mean(values, dim=1, correction=0)
        watch.update(len(x), count, mean, var)
        seen.append((x, watch.average, watch.before_last))
    for x, average, before_last in seen:
        torch.testing.assert_close(
            torch.stack(before_last.started_at(start)).float(),
            torch.stack([layer.running_mean, layer.running_var]),
        )
        model.train()(x)
        torch.testing.assert_close(
            torch.stack(average.started_at(start)).float(),
            torch.stack([layer.running_mean, layer.running_var]),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("samples", [4, 8, 32])
def test_few_samples_count_as_what_they_are(samples: int) -> None:
    """Independent normal values: the statistics of n of them vary as those of n."""
    generator = torch.Generator().manual_seed(3)
    batches = [
        (torch.randn(samples, 200, generator=generator), torch.arange(samples) % 2) for _ in range(200)
    ]
    model = nn.Sequential(nn.BatchNorm1d(200), nn.Linear(200, 2))
    found = few_samples(observe(model, batches, batches, None))
    if samples >= 20:
        assert found is None
    else:
        assert found is not None
        assert found["samples"] == samples
        assert found["effective"] == pytest.approx(samples, rel=0.15)


def test_ghost_groups_are_the_samples_of_a_statistic() -> None:
    generator = torch.Generator().manual_seed(4)
    batches = [(torch.randn(32, 100, generator=generator), torch.arange(32) % 2) for _ in range(100)]
    model = nn.Sequential(nn.BatchNorm1d(100), nn.Linear(100, 2))
    set_norm_batch_size(model, 8, 32, CPU)
    found = few_samples(observe(model, batches, batches, None))
    assert found is not None
    assert found["samples"] == 8
    assert found["effective"] == pytest.approx(8, rel=0.15)


@pytest.mark.parametrize(("ghost", "statistics"), [(32, 5), (8, 20)])
def test_the_population_rests_on_all_statistics(ghost: int, statistics: int) -> None:
    """With a momentum of 0 only its own error is left, which ghost groups do not change."""
    generator = torch.Generator().manual_seed(5)
    batches = [(torch.randn(32, 100, generator=generator), torch.arange(32) % 2) for _ in range(5)]
    model = nn.Sequential(nn.BatchNorm1d(100, momentum=0.0), nn.Linear(100, 2))
    observed = observe(set_norm_batch_size(model, ghost, 32, CPU), batches, batches, None)
    expected = noise(observed, "0") / math.sqrt(statistics)
    assert sampling_error(observed, "0") == pytest.approx(expected)
