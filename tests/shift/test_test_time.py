"""Statistics chosen at test time, against torch's own batch norm and formulas written as loops in float64."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.robustness import adapting
from suite.shift.robustness.test_time import UnMix
from suite.specs.test_time_table import METHODS

EPS = 1e-5


def layer(channels: int = 5) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(channels)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    with torch.no_grad():
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.3, 2)
        bn.weight.uniform_(0.5, 2)
        bn.bias.normal_()
    return bn.eval()


def inputs(count: int, seed: int = 1) -> Tensor:
    return 1.5 * torch.randn(count, 5, 4, 3, generator=torch.Generator().manual_seed(seed)) + 0.7


def adapted(bn: nn.Module, method: str, *batches: Tensor) -> list[Tensor]:
    with torch.no_grad(), adapting(bn, method):
        return [bn(x) for x in batches]


def by_torch(bn: nn.BatchNorm2d, x: Tensor, mean_C: Tensor, var_C: Tensor) -> Tensor:
    return F.batch_norm(x, mean_C, var_C, bn.weight, bn.bias, False, 0.0, EPS).detach()


def test_frozen_changes_nothing() -> None:
    bn, x = layer(), inputs(6)
    assert torch.equal(adapted(bn, "frozen", x)[0], bn(x))


def test_prediction_time_is_torchs_training_mode() -> None:
    bn, x = layer(), inputs(6)
    expected = F.batch_norm(x, None, None, bn.weight, bn.bias, True, 0.0, EPS).detach()
    assert torch.allclose(adapted(bn, "prediction-time", x)[0], expected, atol=1e-5)


@pytest.mark.parametrize("source", [16, 128])
def test_alpha_mixes_estimates_and_batch(source: int) -> None:
    bn, x = layer(), inputs(6)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    of_batch = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
    mean_C, var_C = (
        (source * own + 6 * batch) / (source + 6)
        for own, batch in zip((bn.running_mean, bn.running_var), of_batch, strict=True)
    )
    found = adapted(bn, f"alpha-{source}", x)[0]
    assert torch.allclose(found, by_torch(bn, x, mean_C, var_C), atol=1e-5)


def unmixed(means: list[Tensor], variances: list[Tensor], x: Tensor, momentum: float) -> Tensor:
    """UnMix-TNS of one batch, image by image, in float64; `means` and `variances` are updated."""
    out, moved_means, moved_variances = [], [[] for _ in means], [[] for _ in means]
    for image in x.double():
        own_mean, own_var = image.mean(dim=(1, 2)), image.var(dim=(1, 2), unbiased=False)
        cosine = torch.stack([F.cosine_similarity(own_mean, mean, dim=0) for mean in means])
        share = torch.exp(cosine / 0.07) / torch.exp(cosine / 0.07).sum()
        mixed = [(1 - p) * mean + p * own_mean for p, mean in zip(share, means, strict=True)]
        mixed_var = [(1 - p) * var + p * own_var for p, var in zip(share, variances, strict=True)]
        mean = sum(mixed) / len(mixed)
        var = sum(mixed_var) / len(mixed) + sum(m**2 for m in mixed) / len(mixed) - mean**2
        out.append((image - mean[:, None, None]) / (var + EPS).sqrt()[:, None, None])
        for k, p in enumerate(share):
            moved_means[k].append(p * (own_mean - means[k]))
            moved_variances[k].append(p * (own_var - variances[k]))
    step = 1 - (1 - momentum) ** (len(x) / 64)
    for k in range(len(means)):
        means[k] = means[k] + step * sum(moved_means[k]) / len(x)
        variances[k] = variances[k] + step * sum(moved_variances[k]) / len(x)
    return torch.stack(out)


def test_unmix_is_the_authors_formula_over_a_stream() -> None:
    bn, batches = layer(), [inputs(4, seed) for seed in (1, 2, 3)]
    assert bn.running_mean is not None
    assert bn.running_var is not None
    start = UnMix(bn.running_mean, bn.running_var)
    means, variances = [list(one.double()) for one in (start.mean_KC, start.var_KC)]
    found = adapted(bn, "unmix", *batches)
    for out, x in zip(found, batches, strict=True):
        expected = unmixed(means, variances, x, 0.1)
        expected = expected * bn.weight.double()[:, None, None] + bn.bias.double()[:, None, None]
        assert torch.allclose(out.double(), expected.detach(), atol=1e-4)


def test_unmix_begins_around_the_estimates() -> None:
    """Half of the variance is within the sets; of many sets, the other half between them."""
    mean_C, var_C = torch.tensor([2.0, -1.0]), torch.tensor([4.0, 0.25])
    found = [UnMix(mean_C, var_C, seed=seed) for seed in range(400)]
    means_C = torch.stack([one.mean_KC.mean(dim=0) for one in found]).mean(dim=0)
    between_C = torch.stack([one.mean_KC.var(dim=0, unbiased=False) for one in found]).mean(dim=0)
    assert torch.equal(found[0].var_KC[3], var_C / 2)
    assert torch.allclose(means_C, mean_C, atol=0.15)
    # The authors' spread makes the expected biased variance between K sets α σ².
    assert torch.allclose(between_C, 0.5 * var_C, rtol=0.05)


def test_a_method_starts_anew_and_leaves_no_hook() -> None:
    bn, x = layer(), inputs(4)
    state = {name: value.clone() for name, value in bn.state_dict().items()}
    first = adapted(bn, "unmix", x, x)
    again = adapted(bn, "unmix", x, x)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], first[1])  # the sets have moved
    assert not bn._forward_pre_hooks
    assert all(torch.equal(value, state[name]) for name, value in bn.state_dict().items())


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_method_takes_vectors_maps_and_volumes(method: str, dtype: torch.dtype) -> None:
    for kind, shape in (
        (nn.BatchNorm1d, (6, 5)),
        (nn.BatchNorm2d, (6, 5, 3, 3)),
        (nn.BatchNorm3d, (6, 5, 2, 3, 2)),
    ):
        bn = kind(5).eval().to(dtype)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        out = adapted(bn, method, x)[0]
        assert out.dtype is dtype
        assert out.isfinite().all()


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.needs_batch])
def test_one_value_per_channel_is_refused_where_a_batch_is_needed(method: str) -> None:
    bn = nn.Sequential(nn.BatchNorm1d(5)).eval()
    with pytest.raises(UserError, match=rf"{method}: 0 gets one value per channel \(a single image\)"):
        adapted(bn, method, torch.zeros(1, 5))
    # An image with pixels has a variance of its own.
    assert adapted(layer(), method, inputs(1))[0].isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adapted(layer(), "tent", inputs(2)), "method 'tent' is unknown; expected one of frozen, "),
        (lambda: adapted(nn.Conv2d(5, 2, 1), "unmix", inputs(2)), "unmix: Conv2d has no BN layer"),
    ],
)
def test_what_has_no_statistics_to_choose_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_keyword_inputs_are_adapted_too() -> None:
    bn, x = layer(), inputs(4)
    with torch.no_grad(), adapting(bn, "prediction-time"):
        assert torch.equal(bn(input=x), bn(x))
    assert math.isclose(float(bn.running_var.sum()), float(layer().running_var.sum()))
