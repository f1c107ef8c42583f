"""FRN with TLU, EvoNorm-S0 and DyT against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from suite.models.batch_free import batch_free_norm
from suite.models.norms.dyt import DynamicTanh
from suite.models.norms.evonorm import EvoNormS0
from suite.models.norms.frn import FilterResponseNorm
from tests.helpers.specs import spec


def pixels(*channels: list[float]) -> Tensor:
    """One sample, (1, C, 1, W), in float64."""
    return torch.tensor(channels, dtype=torch.float64)[None, :, None]


def with_values(norm: nn.Module, **values: list[float]) -> nn.Module:
    """The norm in float64 with these parameters."""
    norm = norm.double()
    for name, value in values.items():
        norm.get_parameter(name).data = torch.tensor(value, dtype=torch.float64)
    return norm


def rows(out: Tensor) -> list[list[float]]:
    """(1, C, 1, W) as lists."""
    found: list[list[float]] = out[0, :, 0].tolist()
    return found


# Mean squares of both channels: 25 / 4, so that they are divided by 2.5.
X = pixels([1, 2, 2, 4], [-3, 0, 4, 0])


def test_filter_response_norm_by_hand() -> None:
    norm = FilterResponseNorm(2, eps=0.0)
    with_values(norm, weight=[2, 1], bias=[-1, 0], threshold=[0.5, -1])
    scaled = [[-0.2, 0.6, 0.6, 2.2], [-1.2, 0, 1.6, 0]]
    first, second = rows(norm(X))
    assert first == pytest.approx([0.5, 0.6, 0.6, 2.2])
    assert second == pytest.approx([-1, 0, 1.6, 0])
    passive = FilterResponseNorm(2, activate=False, eps=0.0)
    with_values(passive, weight=[2, 1], bias=[-1, 0])
    assert rows(passive(X)) == [pytest.approx(row) for row in scaled]
    # The default ε, where it counts: √(1e-6 + 1e-6).
    small = FilterResponseNorm(1).double()(pixels([1e-3, 1e-3]))
    assert rows(small) == [pytest.approx([2**-0.5] * 2)]


def test_the_threshold_learns_from_what_lies_below_it() -> None:
    norm = with_values(FilterResponseNorm(2, eps=0.0), threshold=[0.5, 2])
    norm(X).sum().backward()
    assert norm.threshold.grad.tolist() == [1, 4]  # of 0.4, 0.8, 0.8, 1.6, and of all four


def test_evonorm_by_hand() -> None:
    """Groups (1 3 | 5 7): mean 4, variance 5; (0 2 | 0 2): mean 1, variance 1."""
    x = pixels([1, 3], [5, 7], [0, 2], [0, 2])
    norm = EvoNormS0(2, 4, eps=0.0)
    with_values(norm, weight=[1, 2, 1, 1], bias=[0, 0, 0.5, 0], slope=[1, 0.5, 1, -1])

    def by_hand(value: float, slope: float, var: float) -> float:
        return value / (1 + math.exp(-slope * value)) / math.sqrt(var)

    expected = [
        [by_hand(1, 1, 5), by_hand(3, 1, 5)],
        [2 * by_hand(5, 0.5, 5), 2 * by_hand(7, 0.5, 5)],
        [0.5, 0.5 + by_hand(2, 1, 1)],
        [0, by_hand(2, -1, 1)],
    ]
    assert rows(norm(x)) == [pytest.approx(row) for row in expected]
    passive = with_values(EvoNormS0(2, 4, activate=False), weight=[1, 2, 1, 1], bias=[0, 0, 0.5, 0])
    assert rows(passive(x)) == [[1, 3], [10, 14], [0.5, 2.5], [0, 2]]
    constant = EvoNormS0(1, 1).double()(pixels([1, 1]))  # the default ε alone
    assert rows(constant) == [pytest.approx([by_hand(1, 1, 1e-5)] * 2)]


def test_dynamic_tanh_by_hand() -> None:
    norm = with_values(DynamicTanh(2), weight=[2, 1], bias=[0, -1])
    expected = [[2 * math.tanh(0.5 * v) for v in (1, 3)], [math.tanh(0.5 * v) - 1 for v in (-4, 0.2)]]
    assert rows(norm(pixels([1, 3], [-4, 0.2]))) == [pytest.approx(row) for row in expected]


@pytest.mark.parametrize(
    ("bfn", "own"), [("frn", {"threshold": 0}), ("evonorm", {"slope": 1}), ("dyt", {"alpha": 0.5})]
)
@pytest.mark.parametrize("affine", [True, False])
def test_parameters_begin_as_in_the_papers(bfn: str, own: dict[str, float], affine: bool) -> None:
    """What is the norm's own is learned also where the old norm had no scale and shift."""
    norm = batch_free_norm(bfn, 6, 2, affine=affine, activate=True)
    expected = {**({"weight": 1, "bias": 0} if affine else {}), **own}
    assert {name: set(p.tolist()) for name, p in norm.named_parameters()} == {
        name: {value} for name, value in expected.items()
    }


@pytest.mark.parametrize("bfn", ["frn", "evonorm", "dyt"])
def test_in_half_precision_statistics_are_not(bfn: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    norm = batch_free_norm(bfn, 4, 2, activate=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = norm(x.bfloat16())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half, norm(x.bfloat16().float()).bfloat16())


def test_inputs_without_pixels() -> None:
    x = torch.randn(5, 8)
    with pytest.raises(ValueError, match=r"FRN needs an input .* with pixels, got 2 dimensions"):
        FilterResponseNorm(8)(x)
    sigma = (x.reshape(5, 2, 4).var(2, correction=0) + 1e-5).sqrt().repeat_interleave(4, dim=1)
    torch.testing.assert_close(EvoNormS0(2, 8)(x), x * x.sigmoid() / sigma)
    for norm in ({"kind": "frn"}, {"kind": "xbn", "bfn": "frn"}):
        with pytest.raises(
            ValueError, match="frn has no meaning for mlp20: a unit of one sample is a single"
        ):
            spec("mlp20", **norm)
