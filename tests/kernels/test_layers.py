"""Fused layers beside torch's: parameters, estimates, modes; and what they leave to torch."""

import copy
import logging
from unittest import mock

import pytest
import torch
from torch import nn

from suite.kernels import fuse_norms, layers
from suite.kernels.layers import FUSED, fuse_layer
from suite.models.batch_norm import GhostBatchNorm2d
from suite.models.norms.group_norm import GroupNorm
from suite.shift import moments, probe

NORMS = {
    "bn": lambda: nn.BatchNorm2d(6),
    "bn of rate 1": lambda: nn.BatchNorm2d(6, momentum=1.0),
    "bn without momentum": lambda: nn.BatchNorm2d(6, momentum=None),
    "bn without affine": lambda: nn.BatchNorm2d(6, affine=False),
    "bn without estimates": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "bn of vectors": lambda: nn.BatchNorm1d(6),
    "ghost": lambda: GhostBatchNorm2d(6, 2),
    "ghost without momentum": lambda: GhostBatchNorm2d(6, 2, momentum=None),
    "gn": lambda: GroupNorm(3, 6),
    "torch's gn": lambda: nn.GroupNorm(3, 6),
    "ln": lambda: nn.GroupNorm(1, 6),
    "in": lambda: nn.InstanceNorm2d(6, affine=True),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_fused_layer_does_what_the_layer_did(name: str) -> None:
    torch.manual_seed(0)
    layer = NORMS[name]().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    fused = copy.deepcopy(layer)
    assert fuse_layer(fused) is None
    assert isinstance(fused, type(layer))
    shape = (8, 6) if isinstance(layer, nn.BatchNorm1d) else (8, 6, 3, 5)
    for training in (True, True, False):
        x = (torch.randn(shape, dtype=torch.float64) * 3 + 2).requires_grad_()
        if x.dim() == 4:
            x = x.to(memory_format=torch.channels_last).detach().requires_grad_()
        outs = [one.train(training)(x) for one in (layer, fused)]
        torch.testing.assert_close(outs[1], outs[0], rtol=1e-9, atol=1e-11)
        gradients = [
            torch.autograd.grad(out.cos().sum(), [x, *one.parameters()])
            for out, one in zip(outs, (layer, fused), strict=True)
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-11)
    for (key, one), other in zip(fused.state_dict().items(), layer.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=key)


def test_every_fused_class_is_a_subclass_with_the_same_state() -> None:
    assert all(issubclass(fused, kind) for kind, fused in FUSED.items())


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (torch.randn(4, 6, 3, 3), "not channels-last"),
        (torch.randn(5, 6, 3, 3).to(memory_format=torch.channels_last), "do not divide a batch of 5"),
    ],
    ids=["nchw", "odd batch"],
)
def test_what_the_kernels_do_not_take_is_left_to_torch_with_a_word(
    x: torch.Tensor, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    layer = GhostBatchNorm2d(6, 2)
    fused = copy.deepcopy(layer)
    fuse_layer(fused)
    layers._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "shiftbench"), mock.patch.object(layers, "segment_norm") as never:
        for _ in range(2):
            torch.testing.assert_close(fused(x, x, "relu"), torch.relu(layer(x) + x))
    never.assert_not_called()
    assert [why in record.message for record in caplog.records] == [True]
    torch.testing.assert_close(fused.running_var, layer.running_var)


def test_one_value_per_channel_is_refused_as_by_torch() -> None:
    layer = nn.BatchNorm2d(6)
    fuse_layer(layer)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 6, 1, 1))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
        self.bn2 = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def test_the_probe_takes_the_moments_that_fused_norms_measure() -> None:
    """Its input is not read again, and its numbers are those of the network before."""
    torch.manual_seed(0)
    model = Network()
    for bn in (model.bn1, model.bn2):
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    model.conv1.bias.data += 1000  # a mean that is far from zero
    model.bn1.running_mean += 1000
    batches = list(torch.randn(12, 3, 9, 9).split(4))
    before = probe(model, batches)
    model = model.to(memory_format=torch.channels_last)
    fuse_norms(model)
    with (
        mock.patch.object(moments, "batch_moments") as never,
        mock.patch("suite.shift.recorder.batch_moments", never),
    ):
        after = probe(model, batches)
    never.assert_not_called()
    assert [layer.name for layer in after.layers] == ["bn1", "bn2"]
    for one, other in zip(after.layers, before.layers, strict=True):
        assert one.esm_mu == pytest.approx(other.esm_mu, rel=1e-3)
        assert one.esm_sigma == pytest.approx(other.esm_sigma, rel=1e-3)
    assert after.notes == before.notes
    assert all("take_moments" not in bn.__dict__ for bn in (model.bn1, model.bn2))


def test_the_probe_measures_what_a_fused_norm_leaves_to_torch() -> None:
    torch.manual_seed(0)
    model = Network()
    batches = list(torch.randn(12, 3, 9, 9).split(4))
    before = probe(model, batches)
    fuse_norms(model)  # and its inputs stay NCHW
    after = probe(model, batches)
    assert [layer.esm_mu for layer in after.layers] == [layer.esm_mu for layer in before.layers]
