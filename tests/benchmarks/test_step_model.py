"""The model of a training step: its bytes by hand, and what it predicts of the goals."""

import pytest
import torch
from torch import nn

from benchmarks.step_model import BF16, META, Gpu, Setting, counted, inference, training_step
from suite.kernels import fuse_norms


def test_the_bytes_of_one_norm_with_a_relu_are_those_that_were_counted_by_hand() -> None:
    """bf16: fused 6 bytes an element forward and 10 backward; torch's BN 6 and 10, its ReLU 4 and 6 more."""
    elements = 64 * 256 * 28 * 28
    found = {}
    for is_fused in (True, False):
        with META:
            model = nn.Sequential(nn.BatchNorm2d(256), nn.ReLU(inplace=True))
        if is_fused:
            fuse_norms(model)
        shape = (64, 256, 28, 28)
        x = torch.empty(shape, dtype=BF16, device=META, memory_format=torch.channels_last).requires_grad_()
        with counted(Gpu(), BF16) as forward:
            y = model(x)
        dy = torch.empty_like(y)
        with counted(Gpu(), BF16) as backward:
            torch.autograd.backward(y, dy)
        found[is_fused] = [work.norm_bytes / elements for work in (forward, backward)]
    assert found[True] == pytest.approx([6, 10], rel=0.02)  # and the partial sums
    assert found[False] == pytest.approx([10, 16], rel=0.02)


def test_time_is_the_longer_of_device_and_host() -> None:
    gpu = Gpu(bytes_per_s=1e9, flops_per_s=1e9, smallest_s=1e-3, host_s=2e-3)
    with counted(gpu, BF16) as work:
        torch.empty(500, 1000, device=META).add(1.0)  # 4 MB of float32
    assert (work.device_s, work.host_s) == pytest.approx((4e-3, 2e-3))
    assert work.time_s == work.device_s
    with counted(gpu, BF16) as work:
        torch.empty(1000, 1000, dtype=BF16, device=META) @ torch.empty(1000, 1000, dtype=BF16, device=META)
    assert work.device_s == pytest.approx(2.0)  # 2 · 10⁹ operations


def test_the_goals_are_predicted_for_resnet50() -> None:
    """Fused XBN is no slower than BN, BN faster than torch's; ghost BN and probe cost at most a tenth."""
    steps = {norm: training_step(Setting("resnet50", norm=norm)).time_s for norm in ("bn", "xbn")}
    native = training_step(Setting("resnet50", is_fused=False)).time_s
    ghost = training_step(Setting("resnet50", norm_batch_size=2)).time_s
    assert steps["bn"] / steps["xbn"] >= 1.00
    assert native / steps["bn"] > 1.00
    assert ghost / steps["bn"] <= 1.10
    plain, probed = (inference(Setting("resnet50"), with_probe=probed).time_s for probed in (False, True))
    assert 1.0 < probed / plain <= 1.10
