"""The Triton kernels on a GPU. Without one these tests are skipped, and the summary says so."""

import pytest
import torch

from suite.kernels.segment_norm import segment_norm
from tests.helpers.norm_cases import CASES, Case, compare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU: NOT TESTED on one"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_fused_kernels_agree_with_torch_in_float64(case: Case) -> None:
    compare(case, device="cuda")


@pytest.mark.parametrize("samples", [32, 2, 1])
def test_the_same_input_gives_the_same_bits(samples: int) -> None:
    """Forward and backward, of an input that many programs share."""
    draw = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(32, 64, 28, 28, generator=draw).cuda() for _ in range(2))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.ones(64, device="cuda", requires_grad=True) for _ in range(2))
    found = []
    for _ in range(5):
        y, mean, var = segment_norm(x, samples=samples, groups=64, weight_C=weight, bias_C=bias)
        found.append((y, mean, var, *torch.autograd.grad(y, (x, weight, bias), dy)))
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))
