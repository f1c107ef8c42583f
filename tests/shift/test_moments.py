"""The moments of a layer's input, block by block, and those of many layers merged at once."""

import pytest
import torch
from torch import Tensor

from suite.shift import moments
from suite.shift.moments import ChannelMoments, batch_moments, merge_each

CPU = torch.device("cpu")


def test_merging_layers_together_is_merging_one_after_another_to_the_bit() -> None:
    """Three batches of two layers, whose means are far apart; and all values at once, in float64."""
    torch.manual_seed(0)
    widths, sizes = (3, 5), ((7, 4), (2, 9), (5, 1))
    batches = [
        [torch.randn(n, width, dtype=torch.float64) + 10 * i for n, width in zip(count, widths, strict=True)]
        for i, count in enumerate(sizes)
    ]
    together = [ChannelMoments(width, CPU) for width in widths]
    apart = [ChannelMoments(width, CPU) for width in widths]
    for batch in batches:
        means, variances = [x.mean(dim=0) for x in batch], [x.var(dim=0, correction=0) for x in batch]
        counts = [len(x) for x in batch]
        for one, count, mean_C, var_C in zip(apart, counts, means, variances, strict=True):
            one.merge(count, mean_C, var_C * count)
        merge_each(together, counts, means, variances)
    for layer, (one, other) in enumerate(zip(together, apart, strict=True)):
        assert one.count == other.count
        assert torch.equal(one.mean_C, other.mean_C)
        assert torch.equal(one.squares_C, other.squares_C)
        whole = torch.cat([batch[layer] for batch in batches])
        torch.testing.assert_close(one.mean_C, whole.mean(dim=0))
        torch.testing.assert_close(one.var_C, whole.var(dim=0, correction=0))


LAYOUTS = {
    "contiguous": lambda x_NCHW: x_NCHW,
    "channels_last": lambda x_NCHW: x_NCHW.to(memory_format=torch.channels_last),
    "strided": lambda x_NCHW: x_NCHW.repeat_interleave(2, dim=3)[..., ::2],
}


def in_float64(x_NC: Tensor) -> tuple[Tensor, Tensor]:
    wide_CM = x_NC.double().transpose(0, 1).flatten(1)
    return wide_CM.mean(dim=1), wide_CM.var(dim=1, correction=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("samples_per_block", [1, 3, 7, 100])
def test_blocks_of_samples_give_the_moments_of_all(
    samples_per_block: int, layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven samples, so that the last block is smaller, whose means differ and whose channels do."""
    generator = torch.Generator().manual_seed(3)
    x_NCHW = torch.randn(7, 5, 6, 4, generator=generator)
    x_NCHW *= torch.tensor([1e-3, 1.0, 5.0, 1.0, 1e3])[:, None, None]
    x_NCHW += torch.arange(7)[:, None, None, None] * torch.tensor([0.0, 2.0, 1.0, -3.0, 1e2])[:, None, None]
    x_NCHW = LAYOUTS[layout](x_NCHW.to(dtype))
    monkeypatch.setattr(moments, "BLOCK_BYTES", 4 * samples_per_block * 5 * 6 * 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    mean_C, var_C = in_float64(x_NCHW)
    for near_C in (None, mean_C.float()):
        found_mean_C, found_var_C = batch_moments(x_NCHW, near_C)
        assert found_mean_C.dtype == (torch.float32 if near_C is None else torch.float64)
        torch.testing.assert_close(found_mean_C.double(), mean_C, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found_var_C.double(), var_C, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_channels_with_means_far_from_zero_are_read_again(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose estimate is near, one whose estimate is as far off as zero, one without a number."""
    read: list[int] = []

    def seen(x_NC: Tensor) -> tuple[Tensor, Tensor]:
        read.append(x_NC.shape[1])
        return compute(x_NC)

    compute = moments._moments
    monkeypatch.setattr(moments, "_moments", seen)
    shift_C = torch.tensor([0.0, 1e4, -3.0, -5e3, 1e4])
    x_NCHW = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0)) + shift_C[:, None, None]
    near_C = torch.tensor([0.1, 1e4 + 0.3, 0.0, 5e3, float("nan")])
    found_mean_C, found_var_C = batch_moments(LAYOUTS[layout](x_NCHW), near_C)
    mean_C, var_C = in_float64(x_NCHW)
    assert read == [5, 3]
    torch.testing.assert_close(found_mean_C, mean_C, rtol=0, atol=1e-6)
    torch.testing.assert_close(found_var_C, var_C, rtol=1e-6, atol=0)


def test_a_channel_that_is_constant_has_no_variance_and_one_that_is_not_finite_no_number() -> None:
    x_NCHW = torch.full((3, 3, 2, 2), 7.0)
    x_NCHW[:, 1] = torch.arange(12).view(3, 2, 2).float()
    x_NCHW[1, 2, 0, 0] = float("inf")
    mean_C, var_C = batch_moments(x_NCHW, torch.zeros(3))
    assert mean_C[:2].tolist() == [7.0, 5.5]
    assert var_C[:2].tolist() == pytest.approx([0.0, 143 / 12])
    assert not mean_C[2].isfinite()
    assert not var_C[2].isfinite()


@pytest.mark.parametrize("values", [49, 2017, 3136, 12544])  # the second is prime
def test_sums_of_squares_serve_means_within_three_standard_deviations(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[int] = []

    def seen(x_NC: Tensor) -> tuple[Tensor, Tensor]:
        again.append(x_NC.shape[1])
        return compute(x_NC)

    compute = moments._moments_of_samples
    monkeypatch.setattr(moments, "_moments_of_samples", seen)
    shift_C = torch.tensor([0.0, -2.5, 3.5, 30.0])
    x_NCL = torch.randn(8, 4, values, generator=torch.Generator().manual_seed(1)) + shift_C[:, None]
    found_mean_C, found_var_C = batch_moments(x_NCL)
    mean_C, var_C = in_float64(x_NCL)
    assert again == [2]
    torch.testing.assert_close(found_mean_C.double(), mean_C, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_var_C.double(), var_C, rtol=1e-6, atol=0)


def test_rows_whose_sums_are_of_float32_divide_a_channels_values() -> None:
    lengths = {values: moments._row_length(values) for values in (1, 49, 1024, 3136, 12544, 2017, 8072)}
    # A prime number is one row, and so is one whose divisors are small or large only.
    assert lengths == {1: 1, 49: 49, 1024: 1024, 3136: 784, 12544: 896, 2017: 2017, 8072: 1009}
