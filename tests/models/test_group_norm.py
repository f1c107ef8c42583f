"""Group norm under CUDA's autocast, on a made-up CUDA device: which type and layout it computes in."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from suite.models.batch_free import batch_free_norm
from suite.models.norms.group_norm import GroupNorm


@contextmanager
def cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """torch.autocast would disable itself without a GPU."""
    former = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", former)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bfn", ["gn", "ln", "in"])
def test_it_keeps_autocasts_type_and_the_layout(bfn: str, dtype: torch.dtype) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        norm = batch_free_norm(bfn, 8, 4)
        x = torch.empty(2, 8, 5, 3, dtype=dtype, memory_format=torch.channels_last)
        with cuda_autocast(dtype):
            y = norm(x)
            assert (y.dtype, y.is_contiguous(memory_format=torch.channels_last)) == (dtype, True)
            assert norm(x.float()).dtype is dtype  # as a convolution's output would have
            of_torch = nn.GroupNorm(4, 8)(x)
        assert of_torch.dtype is torch.float32  # which is why
        assert norm(x.float()).dtype is torch.float32  # without autocast


def test_it_is_torchs_elsewhere() -> None:
    torch.manual_seed(0)
    ours, torchs = GroupNorm(2, 6), nn.GroupNorm(2, 6)
    x = torch.randn(3, 6, 4, 5)
    assert torch.equal(ours(x), torchs(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), torchs(x))
    assert list(ours.state_dict()) == list(torchs.state_dict())


def test_instance_norm_keeps_channels_last() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4, 5).to(memory_format=torch.channels_last)
    y = batch_free_norm("in", 6, None)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, nn.InstanceNorm2d(6)(x))
