"""Fused networks: what is merged, what is left, and that everything else about the network stays."""

import copy
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from suite.experiment import ModelSpec
from suite.kernels import fuse_norms
from suite.kernels.fuse import is_rewritten
from suite.kernels.layers import FusedBatchNorm2d, FusedNorm
from suite.models import build_model, set_norm_batch_size

X = torch.randn(4, 4, 5, 3, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)


class Code(nn.Module):
    """A module with two norms and one ReLU, whose code is given."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 1)


def written(function: Callable[[Code, Tensor], Tensor]) -> type[Code]:
    return type("Written", (Code,), {"forward": function, "__module__": __name__, "__qualname__": "Written"})


def trained(model: nn.Module, x: Tensor = X) -> list[Tensor]:
    """Output, gradients and buffers of a training pass, and the output of inference behind it."""
    model.train()
    x = x.clone().requires_grad_()
    out = model(x)
    torch.autograd.backward(out.square().mean() + out.mean())
    found = [out.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()]
    with torch.no_grad():
        return [one for one in [*found, model.eval()(x)] if one is not None]


def assert_same(model: nn.Module, merged: int | None, x: Tensor = X) -> nn.Module:
    """Fuse a copy, and compare it with the network itself."""
    model = model.to(memory_format=torch.channels_last)
    fused = copy.deepcopy(model)
    done = fuse_norms(fused)
    if merged is not None:
        assert sum(done.merged.values()) == merged, str(done)
    for one, other in zip(trained(fused, x), trained(model, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)
    return fused


def test_a_network_of_blocks_trains_and_infers_as_before() -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec(arch="small_resnet11", num_classes=5, norm={"kind": "xbn"}))
    model = set_norm_batch_size(model, 2, 8, torch.device("cpu"))
    before = list(model.state_dict())
    fused = assert_same(model, 10, torch.randn(8, 3, 17, 13))  # the stem, and three in each of three blocks
    assert list(fused.state_dict()) == before
    assert [n for n, _ in fused.named_modules()] == [n for n, _ in model.named_modules()]
    assert sum(isinstance(module, FusedNorm) for module in fused.modules()) == 13
    assert {type(block).__qualname__ for block in fused.layer1} == {"Bottleneck"}
    assert all(isinstance(block, Bottleneck) and is_rewritten(block) for block in fused.layer1)


@pytest.mark.parametrize(
    ("arch", "norms", "merged"),
    [("resnet50", 53, 49), ("resnet18", 20, 17), ("mobilenet_v2", 52, 35), ("shufflenet_v2_x1_0", 56, 37)],
)
def test_what_is_merged_in_networks_of_the_suite(arch: str, norms: int, merged: int) -> None:
    """Counted by hand: norms with a ReLU behind. MobileNetV2 adds outside of the Sequential of its norms."""
    with torch.device("meta"):
        model = torchvision.models.get_model(arch, weights=None)
    done = fuse_norms(model)
    assert (len(done.norms), sum(done.merged.values()), done.skipped) == (norms, merged, {})


def added_in_front(self: Code, x: Tensor) -> Tensor:
    return F.relu(x + self.bn1(self.conv(x)))


def added_in_place(self: Code, x: Tensor) -> Tensor:
    out = self.bn1(self.conv(x))
    out += x
    return out.relu_()


def one_relu_for_all(self: Code, x: Tensor) -> Tensor:
    """The norms' ReLU also activates what is no norm's."""
    return self.relu(self.bn2(self.relu(self.conv(self.relu(self.bn1(x)))))) + self.relu(x * 2)


def both_are_norms(self: Code, x: Tensor) -> Tensor:
    return torch.relu(self.bn1(self.conv(x)) + self.bn2(torch.sin(x)))


def without_activation(self: Code, x: Tensor) -> Tensor:
    return torch.sin(self.bn1(self.conv(x)) + x)


def with_relu6(self: Code, x: Tensor) -> Tensor:
    return F.relu6(8 * self.bn1(x)) + F.relu6(self.bn2(x), inplace=True)


def called_twice(self: Code, x: Tensor) -> Tensor:
    return self.relu(self.bn1(self.relu(self.bn1(x)) + x))


MERGED = [(added_in_front, 1), (added_in_place, 1), (one_relu_for_all, 2), (both_are_norms, 1)]
MERGED += [(without_activation, 1), (with_relu6, 1), (called_twice, 2)]


@pytest.mark.parametrize(("code", "merged"), MERGED, ids=lambda value: getattr(value, "__name__", ""))
def test_code_that_is_merged(code: Callable[[Code, Tensor], Tensor], merged: int) -> None:
    torch.manual_seed(0)
    assert_same(written(code)(), merged)


def read_by_others(self: Code, x: Tensor) -> Tensor:
    out = self.bn1(self.conv(x))
    return torch.relu(out) + out


def onto_another(self: Code, x: Tensor) -> Tensor:
    return torch.relu(torch.sin(x).add_(self.bn1(self.conv(x))))


def input_is_read_by_others(self: Code, x: Tensor) -> Tensor:
    """Which could change it in place, before the addition."""
    return self.bn1(x) + torch.sin(x)


def scaled_addition(self: Code, x: Tensor) -> Tensor:
    return torch.add(self.bn1(self.conv(x)), x, alpha=2)


LEFT = (read_by_others, onto_another, input_is_read_by_others, scaled_addition)


@pytest.mark.parametrize("code", LEFT, ids=lambda code: code.__name__)
def test_code_in_which_nothing_can_be_merged(code: Callable[[Code, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    assert_same(written(code)(), 0)


def by_mode(self: Code, x: Tensor) -> Tensor:
    return self.relu(self.bn1(x)) if self.training else self.bn1(x)


def by_dropout(self: Code, x: Tensor) -> Tensor:
    return F.dropout(self.relu(self.bn1(x)), 0.0, self.training)


def by_value(self: Code, x: Tensor) -> Tensor:
    return self.relu(self.bn1(x)) if x.sum() > 1e9 else self.bn1(x)


def counting(self: Code, x: Tensor) -> Tensor:
    self.calls = getattr(self, "calls", 0) + 1
    return self.relu(self.bn1(x)) * self.calls


def as_mapping(self: Code, x: Tensor) -> dict[str, Tensor]:
    """As torchvision's detectors take features out of a backbone."""
    return OrderedDict(out=self.relu(self.bn1(x)))


SKIPPED = [(by_mode, "depends on the mode"), (by_dropout, "depends on the mode")]
SKIPPED += [(by_value, "cannot be traced"), (counting, "it sets calls")]


@pytest.mark.parametrize(("code", "why"), SKIPPED, ids=lambda value: getattr(value, "__name__", ""))
def test_code_that_cannot_be_traced_is_left_with_a_word(
    code: Callable[[Code, Tensor], Tensor], why: str
) -> None:
    torch.manual_seed(0)
    model = written(code)()
    done = fuse_norms(copy.deepcopy(model))
    assert why in done.skipped["Written"]
    assert done.norms == ["bn1", "bn2"]
    assert why in str(done)
    assert_same(model, 0)


def test_a_network_that_returns_no_tensor_keeps_its_code() -> None:
    model = written(as_mapping)()
    done = fuse_norms(model)
    assert "returns something else than one tensor" in done.skipped["Written"]
    assert isinstance(model(X), OrderedDict)


def test_an_input_that_is_no_tensor_runs_the_modules_own_code() -> None:
    """DenseNet's layers take a tensor or a list of tensors."""

    def lists(self: Code, x: Tensor | list[Tensor]) -> Tensor:
        return self.relu(self.bn1(torch.cat(x, 0) if isinstance(x, list) else x))

    torch.manual_seed(0)
    fused = assert_same(written(lists)(), None)
    assert fused([X, X]).shape == (8, 4, 5, 3)


def test_code_that_asks_for_a_tensor_is_traced_as_for_a_tensor() -> None:
    def by_kind(self: Code, x: Tensor | dict[str, Tensor]) -> Tensor:
        x = x if isinstance(x, Tensor) else x["x"] * 2
        return self.relu(self.bn1(x))

    torch.manual_seed(0)
    fused = assert_same(written(by_kind)(), 1)
    assert torch.equal(fused.eval()({"x": X / 2}), fused(X))


def test_a_layer_that_is_appended_is_called() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).eval()
    assert fuse_norms(model).merged == {"": 1}
    before = model(X)
    model.append(nn.Flatten())
    assert torch.equal(model(X), before.flatten(1))


def test_norms_without_a_fused_form_are_named() -> None:
    model = nn.Sequential(nn.SyncBatchNorm(4), nn.BatchNorm2d(4), nn.LayerNorm(4))
    done = fuse_norms(model)
    assert done.norms == ["1"]
    assert done.skipped == {
        "0": "SyncBatchNorm has no fused form",
        "2": "LayerNorm has no fused form",
    }


def test_a_list_of_norms_has_no_code_to_be_left() -> None:
    done = fuse_norms(nn.ModuleList([nn.BatchNorm2d(4)]))
    assert (done.norms, done.skipped) == (["0"], {})


def test_hooks_see_what_they_saw() -> None:
    torch.manual_seed(0)
    model = written(added_in_place)()
    model.bn1.weight.data.normal_()
    fused = assert_same(model, 1)
    seen: dict[str, Tensor] = {}
    for name, one in (("native", model), ("fused", fused)):
        one.bn1.register_forward_hook(lambda *args, name=name: seen.update({name: args[2].detach().clone()}))
        one.eval()(X)
    torch.testing.assert_close(seen["fused"], seen["native"], rtol=1e-4, atol=1e-5)
    assert (seen["fused"] < 0).any()  # in front of the ReLU


def test_a_hook_that_replaces_a_norms_input_leaves_what_follows_the_norm() -> None:
    torch.manual_seed(0)
    model = written(added_in_place)()
    fused = assert_same(model, 1)
    for one in (model, fused):
        one.bn1.register_forward_pre_hook(lambda _, inputs: 2 * inputs[0])
    torch.testing.assert_close(fused.eval()(X), model.eval()(X), rtol=1e-4, atol=1e-5)


def test_a_hook_of_a_merged_relu_is_called() -> None:
    model = written(one_relu_for_all)()
    fuse_norms(model)
    calls: list[int] = []
    model.relu.register_forward_hook(lambda *_: calls.append(1))
    model(X)
    assert len(calls) == 4


def test_copies_and_pickles_are_fused_too() -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec(arch="small_resnet11", num_classes=5, norm={"kind": "bn"}))
    model = model.to(memory_format=torch.channels_last).eval()
    fuse_norms(model)
    x = torch.randn(2, 3, 9, 9)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), _saved(model)):
        assert torch.equal(other(x), model(x))
        assert [type(m).__name__ for m in other.modules()] == [type(m).__name__ for m in model.modules()]
        assert [is_rewritten(m) for m in other.modules()] == [is_rewritten(m) for m in model.modules()]
        assert other.bn1.weight is not model.bn1.weight
    assert sum(map(is_rewritten, model.modules())) == 4


def _saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def test_what_is_put_in_a_norms_place_afterwards_is_called() -> None:
    model = written(added_in_place)()
    fuse_norms(model)
    model.bn1 = nn.Identity()
    torch.testing.assert_close(model(X), F.relu(model.conv(X) + X))


def test_a_slice_of_a_fused_sequential_is_a_plain_one() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    fuse_norms(model)
    assert is_rewritten(model)
    torch.testing.assert_close(model[:1](X), model[0](X))
    assert isinstance(model[1], FusedBatchNorm2d)
    torch.testing.assert_close(model(X), F.relu(model[1](model[0](X))))
