"""The norms against formulas written out, and against torch's own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from suite.models.batch_free import GroupWhitening, batch_free_norm
from suite.models.batch_norm import CrossRankBatchNorm2d, GhostBatchNorm2d, set_norm_batch_size
from tests.helpers.ranks import on_ranks


def test_group_norm_by_hand() -> None:
    x = torch.tensor([[1.0, 3.0], [5.0, 7.0], [2.0, 2.0], [4.0, 8.0]]).reshape(1, 4, 1, 2)
    out = batch_free_norm("gn", 4, 2)(x).detach().flatten().tolist()
    # Group 1: 1 3 5 7, mean 4, variance 5; group 2: 2 2 4 8, mean 4, variance 6.
    expected = [v / 5**0.5 for v in (-3, -1, 1, 3)] + [v / 6**0.5 for v in (-2, -2, 0, 4)]
    assert out == pytest.approx(expected, abs=1e-5)


def test_layer_norm_is_group_norm_with_one_group_and_groups_are_clipped() -> None:
    x = torch.randn(3, 6, 4, 4)
    layer = batch_free_norm("ln", 6, None)(x)
    mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(layer, (x - mean) / (var + 1e-5).sqrt())
    clipped = batch_free_norm("gn", 6, 64)
    assert isinstance(clipped, nn.GroupNorm)
    assert clipped.num_groups == 6
    torch.testing.assert_close(clipped(x), batch_free_norm("in", 6, None)(x))


def test_groups_that_do_not_divide_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"num_groups 4 does not divide 6 channels; valid: \[1, 2, 3, 6\]"):
        batch_free_norm("gn", 6, 4)


def _zca(x_NCHW: Tensor, groups: int, eps: float) -> Tensor:
    """Whitening of each sample by an eigendecomposition, in float64."""
    x = x_NCHW.double().reshape(len(x_NCHW), groups, -1)
    x = x - x.mean(2, keepdim=True)
    cov = x @ x.mT / x.shape[2] + eps * torch.eye(groups)
    values, vectors = torch.linalg.eigh(cov)
    return (vectors @ torch.diag_embed(values.rsqrt()) @ vectors.mT @ x).reshape(x_NCHW.shape)


def test_group_whitening_converges_to_the_exact_inverse_root() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 16, 6, 6)
    x[:, 8:] += 0.5 * x[:, :8]
    exact = _zca(x, 4, 1e-5)
    many = GroupWhitening(4, 16, iterations=12)(x.double())
    torch.testing.assert_close(many, exact, atol=1e-9, rtol=0)
    five = GroupWhitening(4, 16)(x).double()
    assert (five - exact).norm() < 0.05 * exact.norm()
    assert (GroupWhitening(4, 16, iterations=1)(x) - exact).norm() > 0.1 * exact.norm()


def test_ghost_groups_equal_separate_batches_in_output_gradient_and_estimates() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 5, 3, 3)
    ghost, plain = GhostBatchNorm2d(5, 4), nn.BatchNorm2d(5)
    whole, parts = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = ghost(whole)
    expected = torch.cat([plain(parts[i : i + 4]) for i in (0, 4, 8)])
    assert torch.equal(out, expected)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(whole.grad, parts.grad)
    assert torch.equal(ghost.running_mean, plain.running_mean)
    assert torch.equal(ghost.running_var, plain.running_var)
    assert ghost.num_batches_tracked == 3
    assert torch.equal(ghost.eval()(x), plain.eval()(x))


def test_a_statistic_of_another_batch_size_changes_the_output() -> None:
    x = torch.randn(8, 3, 2, 2)
    assert not torch.allclose(GhostBatchNorm2d(3, 2)(x), nn.BatchNorm2d(3)(x), atol=1e-3)


def test_set_norm_batch_size_keeps_parameters_and_skips_what_needs_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.GroupNorm(2, 4))
    nn.init.uniform_(model[1].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cpu = torch.device("cpu")
    assert type(set_norm_batch_size(model, 8, 8, cpu)[1]) is nn.BatchNorm2d
    set_norm_batch_size(model, 2, 8, cpu)
    assert isinstance(model[1], GhostBatchNorm2d)
    assert (model[1].norm_batch_size, model[1].momentum) == (2, 0.3)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def _norm_pass(norm: nn.Module, x: Tensor, weight: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = norm(x)
    (out * weight).sum().backward()
    return [out.detach(), x.grad, norm.running_mean, norm.running_var]


def _inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 3, 4, 4) + 1000, torch.randn(8, 3, 4, 4)


def cross_rank_pass_in_bf16(rank: int, world_size: int) -> torch.dtype:
    x, _ = _inputs()
    norm = CrossRankBatchNorm2d(3, None)
    out = norm(x[rank * 4 : rank * 4 + 4].bfloat16())
    assert norm.running_mean.dtype is torch.float32
    dtype: torch.dtype = out.dtype
    return dtype


def test_statistics_across_ranks_are_taken_in_full_precision(tmp_path: Path) -> None:
    assert on_ranks(cross_rank_pass_in_bf16, 2, tmp_path) == [torch.bfloat16] * 2


def cross_rank_pass(rank: int, world_size: int) -> list[Tensor]:
    x, weight = _inputs()
    mine = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    return _norm_pass(CrossRankBatchNorm2d(3, None), x[mine], weight[mine])


def test_statistics_across_two_ranks_equal_one_batch(tmp_path: Path) -> None:
    first, second = on_ranks(cross_rank_pass, 2, tmp_path)
    x, weight = _inputs()
    out, grad, mean, var = _norm_pass(nn.BatchNorm2d(3).double(), x.double(), weight.double())
    torch.testing.assert_close(torch.cat([first[0], second[0]]).double(), out, atol=2e-3, rtol=0)
    torch.testing.assert_close(torch.cat([first[1], second[1]]).double(), grad, atol=2e-3, rtol=0)
    for one in (first, second):
        torch.testing.assert_close(one[2].double(), mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(one[3].double(), var, rtol=1e-4, atol=0)
