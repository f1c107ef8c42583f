"""Networks as people have them: compiled, wrapped, frozen, scripted, exported, with outputs of any form."""

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.ao import quantization

from suite.errors import UserError
from suite.shift import attribute, find_origins, perturb, probe, remedies
from suite.shift.batches import logits_of

Batches = list[tuple[Tensor, Tensor]]


class Net(nn.Module):
    """Two convolutions with BN, and a classifier."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), norm(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3), norm(6)
        self.fc = nn.Linear(6, 3)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x))


def put_statistics(model: nn.Module) -> nn.Module:
    """Write other estimates than 0 and 1 into every layer, the same into each network of this shape."""
    generator = torch.Generator().manual_seed(3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def net(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(1)
    return put_statistics(Net(norm))


@pytest.fixture
def batches() -> Batches:
    """Of 8, 8 and 5: the last one is smaller, for which compiled code is another."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(21, 3, 9, 9, generator=generator)
    labels = torch.randint(3, (21,), generator=generator)
    return list(zip(images.split(8), labels.split(8), strict=True))


def by_hand(model: nn.Module, batches: Batches) -> list[tuple[float, float]]:
    """ESM μ and σ of the two layers in float64, without hooks: the network is written out again."""
    copy = net().double()
    copy.load_state_dict({name.replace("_orig_mod.", ""): v for name, v in model.state_dict().items()})
    x = F.conv2d(torch.cat([images for images, _ in batches]).double(), copy.conv1.weight, copy.conv1.bias)
    found = []
    for bn, following in ((copy.bn1, copy.conv2), (copy.bn2, None)):
        mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        found.append(
            (
                float((mean - bn.running_mean).norm()),
                float((var.sqrt() - bn.running_var.sqrt()).norm()),
            )
        )
        if following is not None:
            scaled = (x - bn.running_mean[:, None, None]) / (bn.running_var + bn.eps).sqrt()[:, None, None]
            shifted = scaled * bn.weight[:, None, None] + bn.bias[:, None, None]
            x = F.conv2d(shifted.relu(), following.weight, following.bias)
    return found


def assert_by_hand(model: nn.Module, batches: Batches, reference: nn.Module | None = None) -> None:
    profile = probe(model, batches)
    assert [layer.name.removeprefix("module.") for layer in profile.layers] == ["bn1", "bn2"]
    found = [(layer.esm_mu, layer.esm_sigma) for layer in profile.layers]
    for ours, theirs in zip(found, by_hand(reference or model, batches), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("how", ["whole", "in place", "submodule"])
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_network_that_has_run_is_measured(batches: Batches, how: str, backend: str) -> None:
    model = net()
    if how == "whole":
        used: nn.Module = torch.compile(model, backend=backend)
    elif how == "in place":
        model.compile(backend=backend)
        used = model
    else:
        model.bn1 = torch.compile(model.bn1, backend=backend)
        used = model
    with torch.no_grad():
        for images, _ in batches:
            used(images)
    assert_by_hand(used, batches, model)
    plain = net()
    assert remedies(used, batches, batches).rows == remedies(plain, batches, batches).rows
    assert perturb(used, batches, [0.0, 0.4]).top1_percent == perturb(plain, batches, [0.0, 0.4]).top1_percent
    assert find_origins(used, batches).to_frame().equals(find_origins(plain, batches).to_frame())
    assert attribute(used, batches).to_frame().equals(attribute(plain, batches).to_frame())


def test_a_network_in_data_parallel_is_measured(batches: Batches) -> None:
    model = net()
    assert_by_hand(nn.DataParallel(model), batches, model)


def test_layers_that_normalise_with_constants_are_measured(batches: Batches) -> None:
    frozen = net(torchvision.ops.FrozenBatchNorm2d)
    reference = net()
    assert_by_hand(frozen, batches, reference)
    # Nothing of it can be adapted to batches.
    with pytest.raises(UserError, match="has no BN layer, so nothing is estimated"):
        remedies(frozen, batches)


def test_a_network_whose_layers_are_hidden_is_refused(batches: Batches) -> None:
    images = batches[0][0]
    scripted = torch.jit.script(net())
    exported = torch.export.export(net(), (images,)).module()
    for model, word in ((scripted, "scripted"), (torch.jit.freeze(scripted), "scripted")):
        with pytest.raises(UserError, match=f"{word}.*give the original module"):
            probe(model, batches)
    with pytest.raises(UserError, match=r"bn1: its running statistics belong to no BN layer.*torch\.export"):
        probe(exported, [(images, None)])


class Functional(nn.Module):
    """Its first norm is nn.BatchNorm2d, its second F.batch_norm on buffers of its own, without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.bn(self.conv(x)), self.running_mean, self.running_var)


def test_batch_norm_as_a_function_is_measured_as_a_layer(batches: Batches) -> None:
    model = Functional().eval()
    put_statistics(model)
    profile = probe(model, batches)
    assert [layer.name for layer in profile.layers] == ["bn", ""]
    assert profile.skipped == {}
    # Its input is the output of the layer before it.
    with torch.no_grad():
        x = torch.cat([model.bn(model.conv(images)) for images, _ in batches]).double()
    mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
    found = profile.layers[1]
    assert found.esm_mu == pytest.approx(float((mean - model.running_mean).norm()), rel=1e-5)
    assert found.esm_sigma == pytest.approx(float((var.sqrt() - model.running_var.sqrt()).norm()), rel=1e-5)


class OwnFrozenNorm(nn.Module):
    """A frozen norm as people write it: buffers of any name. `how` it gets them to F.batch_norm."""

    def __init__(self, num_channels: int, how: str = "buffers") -> None:
        super().__init__()
        self.how = how
        self.register_buffer("mu", torch.full((num_channels,), 0.5))
        self.register_buffer("sigma2", torch.full((num_channels,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mu.clone() if self.how == "copies" else self.mu
        if self.how == "torch.batch_norm":
            return torch.batch_norm(x, None, None, mean, self.sigma2, False, 0.1, 1e-5, True)
        if self.how == "keywords":
            return F.batch_norm(input=x, running_var=self.sigma2, running_mean=mean, eps=1e-3)
        return F.batch_norm(x, mean, self.sigma2)


@pytest.mark.parametrize("how", ["buffers", "keywords", "torch.batch_norm"])
def test_frozen_norms_with_buffers_of_any_name_are_measured(batches: Batches, how: str) -> None:
    model = Net(lambda channels: OwnFrozenNorm(channels, how))
    profile = probe(model, batches)
    assert [layer.name for layer in profile.layers] == ["bn1.mu", "bn2.mu"]
    assert profile.skipped == {}
    with torch.no_grad():
        x = torch.cat([model.conv1(images) for images, _ in batches]).double()
    expected = float((x.mean(dim=(0, 2, 3)) - 0.5).norm())
    assert profile.layers[0].esm_mu == pytest.approx(expected, rel=1e-5)
    assert probe(torch.compile(model, backend="eager"), batches).values("esm_mu") == profile.values("esm_mu")


class OwnNorm(nn.Module):
    """BN as people write it out: the formula, with statistics that no layer of torch owns."""

    def __init__(self, num_channels: int, mean: str, var: str, kind: str = "buffers") -> None:
        super().__init__()
        self.names = mean, var
        for name, value in ((mean, 0.5), (var, 2.0)):
            tensor = torch.full((1, num_channels, 1, 1), value)
            if kind == "buffers":
                self.register_buffer(name, tensor)
            else:
                setattr(
                    self, name, nn.Parameter(tensor, requires_grad=False) if kind == "parameters" else tensor
                )

    def forward(self, x: Tensor) -> Tensor:
        mean, var = (getattr(self, name) for name in self.names)
        out: Tensor = (x - mean) / (var + 1e-5).sqrt()
        return out


@pytest.mark.parametrize("kind", ["buffers", "parameters", "tensors"])
@pytest.mark.parametrize(
    ("mean", "var"),
    [
        ("moving_mean", "moving_var"),
        ("pop_mean", "pop_std"),
        ("emaMu", "emaSigma2"),
        ("avg_mean", "avg_variance"),
    ],
)
def test_norms_that_are_written_out_are_named(batches: Batches, mean: str, var: str, kind: str) -> None:
    model = Net(lambda channels: OwnNorm(channels, mean, var, kind))
    profile = probe(model, batches)
    assert (profile.layers, profile.is_partial) == ((), True)
    assert list(profile.skipped) == ["bn1", "bn2"]
    assert f"its {mean} and {var} look like estimates, but it is not a known norm" in profile.skipped["bn1"]
    with pytest.raises(UserError, match=f"remedies: bn1: its {mean} and {var} look like estimates"):
        remedies(model, batches)
    beside = probe(nn.Sequential(nn.BatchNorm2d(3).eval(), model), batches)
    assert [layer.name for layer in beside.layers] == ["0"]
    assert list(beside.skipped) == ["1.bn1", "1.bn2"]


class Normalised(Net):
    """What looks like estimates and is none: images' constants, a mean without a variance, a learned pair."""

    def __init__(self) -> None:
        super().__init__(norm=nn.Identity)  # type: ignore[arg-type]
        self.register_buffer("pixel_mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.ones(1, 3, 1, 1))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.register_buffer("ema_mean", torch.zeros(9))
        self.register_buffer("band_mean", torch.zeros(12))  # an input's of twelve bands
        self.register_buffer("band_std", torch.ones(12))
        self.mu, self.var = torch.zeros(8), torch.ones(8)  # what a variational layer gave last
        self.prior_mean, self.prior_std = nn.Parameter(torch.zeros(9)), nn.Parameter(torch.ones(9))


def test_other_statistics_are_not_taken_for_estimates(batches: Batches) -> None:
    profile = probe(Normalised(), batches)
    assert (profile.layers, profile.skipped, profile.is_partial) == ((), {}, False)


def test_instance_norms_with_statistics_are_named(batches: Batches) -> None:
    tracked = net(lambda channels: nn.InstanceNorm2d(channels, track_running_stats=True))
    with pytest.raises(UserError, match="probe: bn1: an instance norm with running statistics"):
        probe(tracked, batches)
    beside = probe(nn.Sequential(nn.BatchNorm2d(3).eval(), tracked), batches)
    assert [layer.name for layer in beside.layers] == ["0"]
    assert {"1.bn1", "1.bn2"} == {name for name, why in beside.skipped.items() if "instance norm" in why}


def prepared_for_int8() -> nn.Module:
    """A convolution with BN and ReLU fused to it, as a network is trained to be quantised."""
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(quantization.QuantStub(), block, quantization.DeQuantStub()).train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    fused = quantization.fuse_modules_qat(model, [["1.0", "1.1", "1.2"]])
    prepared: nn.Module = quantization.prepare_qat(fused)
    return prepared


def test_networks_to_be_quantised_before_and_after(batches: Batches) -> None:
    with pytest.raises(UserError, match=r"1\.0\..*: got its size in the pass.*has seen no batch"):
        probe(prepared_for_int8().eval(), batches)
    model = prepared_for_int8()
    model(batches[0][0])
    assert [layer.name for layer in probe(model, batches).layers] == ["1.0.bn"]
    int8 = quantization.convert(model.eval())
    for measure in (probe, remedies):
        with pytest.raises(UserError, match=r"1\.0: an int8 layer, which may have a BN layer folded into it"):
            measure(int8, batches)


def test_calls_with_statistics_from_nowhere_are_named(batches: Batches) -> None:
    profile = probe(Net(lambda channels: OwnFrozenNorm(channels, "copies")), batches)
    assert profile.layers == ()
    assert "statistics that are no buffers of the network" in profile.skipped["F.batch_norm"]


def test_statistics_that_nothing_uses_are_named(batches: Batches) -> None:
    class Idle(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("old_running_mean", torch.zeros(4))

    profile = probe(Idle(), batches)
    assert [layer.name for layer in profile.layers] == ["bn1", "bn2"]
    assert "its running statistics belong to no BN layer" in profile.skipped["old"]


class CallsForward(Net):
    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1.forward(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x))).mean(dim=(2, 3))


def test_a_layer_whose_forward_is_called_is_named(batches: Batches) -> None:
    model = put_statistics(CallsForward())
    profile = probe(model, batches)
    assert [layer.name for layer in profile.layers] == ["bn2"]
    assert "called by its `forward`, which runs no hook" in profile.skipped["bn1"]
    with pytest.raises(UserError, match=r"remedies: bn1 is called by its `forward`"):
        remedies(model, batches)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: {"logits": logits, "loss": None},
        lambda logits: {"out": logits},
        lambda logits: (logits, logits.new_zeros(1)),
        lambda logits: SimpleNamespace(loss=None, logits=logits),
    ],
)
def test_outputs_of_the_usual_forms_give_their_logits(
    batches: Batches, wrap: Callable[[Tensor], Any]
) -> None:
    class Wrapped(Net):
        def forward(self, x: Tensor) -> Any:
            return wrap(super().forward(x))

    torch.manual_seed(1)
    model = put_statistics(Wrapped())
    assert remedies(model, batches).rows == remedies(net(), batches).rows
    mappings = [{"pixel_values": images, "labels": labels} for images, labels in batches]
    assert perturb(model, mappings, [0.2]).top1_percent == perturb(net(), batches, [0.2]).top1_percent


def test_other_outputs_need_a_function(batches: Batches) -> None:
    class Wrapped(Net):
        def forward(self, x: Tensor) -> Any:
            return {"head": {"scores": super().forward(x)}}

    torch.manual_seed(1)
    model = put_statistics(Wrapped())
    with pytest.raises(UserError, match="`logits` can take them out"):
        remedies(model, batches)

    def logits(output: Any) -> Tensor:
        scores: Tensor = output["head"]["scores"]
        return scores

    assert remedies(model, batches, logits=logits).rows == remedies(net(), batches).rows
    assert logits_of(torch.zeros(2, 3, 4), None) is None


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (np.zeros((2, 3, 9, 9)), "a batch is numpy.ndarray; expected a tensor of images"),
        ((np.zeros((2, 3, 9, 9)), 1), "a batch is tuple, which holds ndarray"),
        ({"nothing": 1}, "a batch is dict, which holds NoneType"),
        (torch.zeros(2, 3, 9, 9, dtype=torch.uint8), "the images are uint8, 0 to 255"),
    ],
)
def test_batches_that_are_none_are_refused(batch: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=f"probe: .*{sentence}"):
        probe(net(), [batch])


@pytest.mark.parametrize("batches", [None, 3])
def test_what_yields_no_batches_is_refused(batches: Any) -> None:
    with pytest.raises(UserError, match="probe: expected batches, such as a list or a loader, got"):
        probe(net(), batches)


def test_an_unknown_metric_is_refused(batches: Batches) -> None:
    with pytest.raises(UserError, match="no metric 'esm' is probed; probed are esm_mu"):
        probe(net(), batches).mean("esm")


@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("shift", [1e-3, 1.0])
def test_a_mean_far_from_zero_costs_no_digits(ratio: float, shift: float) -> None:
    """Inputs of σ ≈ 1 whose mean is `ratio`, and an estimate that is `shift` away."""
    generator = torch.Generator().manual_seed(4)
    x = (ratio + torch.randn(64, 5, 6, 6, generator=generator)).float()
    bn = nn.BatchNorm2d(5)
    bn.running_mean.copy_(x.double().mean(dim=(0, 2, 3)) + shift)
    bn.eval()
    expected = (x.double().mean(dim=(0, 2, 3)) - bn.running_mean.double()).norm()
    sigma = (x.double().var(dim=(0, 2, 3), correction=0).sqrt() - 1).norm()
    (layer,) = probe(nn.Sequential(nn.Identity(), bn), list(x.split(16))).layers
    assert layer.esm_mu == pytest.approx(float(expected), rel=1e-5)
    assert layer.esm_sigma == pytest.approx(float(sigma), rel=1e-5)
    assert not math.isnan(layer.esm_mu_scaled)
