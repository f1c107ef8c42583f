"""What computes segment norm on CPUs, beside torch in float64, and what segment norm refuses."""

import pytest
import torch

from suite.kernels import reference
from suite.kernels.segment_norm import implementation, segment_norm
from tests.helpers.norm_cases import CASES, Case, compare


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_agrees_with_torch(case: Case) -> None:
    assert implementation(torch.device("cpu")) is reference
    compare(case)


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        ((4, 6, 3), {}, r"expected \(N, C\) or \(N, C, H, W\) of float16, .*got \(4, 6, 3\) of float32"),
        ((4, 6), {"samples": 3}, "segments of 3 samples do not divide 4"),
        ((4, 6), {"groups": 4}, "4 groups do not divide 6 channels"),
        ((4, 6), {"residual": torch.zeros(4, 1)}, r"the residual is \(4, 1\) of torch.float32, the input"),
    ],
)
def test_what_does_not_fit_is_refused(
    shape: tuple[int, ...], options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        segment_norm(torch.zeros(shape), **{"samples": 1, "groups": 2, **options})


def test_a_second_derivative_is_refused() -> None:
    x = torch.randn(2, 4, 2, 2, requires_grad=True)
    y, _, _ = segment_norm(x, samples=1, groups=2)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(gradient.sum())
