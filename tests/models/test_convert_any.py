"""`convert` on networks as people have them: all sites or none, and new norms that are like the old ones."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.experiment import NormSpec
from suite.models import convert
from suite.models.batch_norm import set_norm_batch_size
from suite.specs.norm import norm_spec


def norm_of(**norm: object) -> NormSpec:
    return norm_spec(norm)


def layered(*norms: nn.Module) -> nn.Sequential:
    return nn.Sequential(*norms)


def test_a_conversion_that_is_refused_changes_nothing() -> None:
    model = layered(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6))
    before = copy.deepcopy(model)
    with pytest.raises(UserError, match=r"num_groups at 3: num_groups 4 does not divide 6"):
        convert(model, norm_of(kind="gn", num_groups=4))
    assert str(model) == str(before)
    converted = convert(model, norm_of(kind="gn", num_groups=2))
    assert {m.num_groups for m in converted.modules() if isinstance(m, nn.GroupNorm)} == {2}


@pytest.mark.parametrize("kind", ["gn", "ln", "in"])
@pytest.mark.parametrize(
    ("old", "shape"),
    [
        (nn.BatchNorm1d(8), (4, 8, 5)),
        (nn.BatchNorm2d(8), (4, 8, 5, 5)),
        (nn.BatchNorm3d(8), (4, 8, 3, 4, 5)),
        (nn.SyncBatchNorm(8), (4, 8, 5, 5)),
    ],
)
def test_every_kind_of_batch_norm_is_converted(kind: str, old: nn.Module, shape: tuple[int, ...]) -> None:
    groups = {"num_groups": 2} if kind == "gn" else {}
    model = convert(layered(copy.deepcopy(old)), norm_of(kind=kind, **groups))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    num_groups = {"gn": 2, "ln": 1, "in": 8}[kind]
    parts = x.reshape(shape[0], num_groups, -1)
    expected = (parts - parts.mean(2, keepdim=True)) / (
        parts.var(2, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(model.double()(x), expected.reshape(shape))


def test_new_norms_keep_type_mode_and_whether_they_learn() -> None:
    model = layered(nn.BatchNorm2d(8), nn.BatchNorm2d(8)).bfloat16()
    model[0].eval().requires_grad_(False)
    converted = convert(model, norm_of(kind="gn", num_groups=2))
    frozen, free = converted
    assert not frozen.training
    assert free.training
    assert [p.requires_grad for p in converted.parameters()] == [False, False, True, True]
    assert {p.dtype for p in converted.parameters()} == {torch.bfloat16}


def test_a_network_without_batch_norm_is_refused() -> None:
    with pytest.raises(UserError, match="has no batch norm that could be replaced"):
        convert(layered(nn.Linear(3, 3)), norm_of(kind="gn"))


def test_a_norm_is_also_given_as_its_mapping_or_kind() -> None:
    model = convert(timm.create_model("resnet18"), {"kind": "xbn", "num_groups": 8, "stem": False})
    assert sum(isinstance(m, nn.GroupNorm) for m in model.modules()) == 8
    assert (
        sum(isinstance(m, nn.GroupNorm) for m in convert(timm.create_model("resnet18"), "gn").modules()) == 20
    )
    with pytest.raises(UserError, match="unknown kind 'xbm'; valid: bn, xbn"):
        convert(layered(nn.BatchNorm2d(8)), "xbm")


def grouped_by_hand(model: nn.Module, x: Tensor, size: int) -> Tensor:
    """In training mode, group by group: dropout and activation act on each value alone."""
    return torch.cat([model(part) for part in x.split(size)])


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: timm.layers.BatchNormAct2d(6), (8, 6, 5, 5)),
        (lambda: timm.layers.BatchNormAct2d(6, act_layer=nn.SiLU), (8, 6, 5, 5)),
        (lambda: nn.BatchNorm1d(6), (8, 6)),
        (lambda: nn.BatchNorm1d(6, affine=False), (8, 6, 7)),
        (lambda: nn.BatchNorm3d(6), (8, 6, 3, 4, 5)),
        (lambda: nn.BatchNorm2d(6, track_running_stats=False), (8, 6, 5, 5)),
    ],
)
def test_ghost_groups_in_every_kind_of_batch_norm(make: object, shape: tuple[int, ...]) -> None:
    assert callable(make)
    torch.manual_seed(0)
    plain = layered(make())
    ghost = set_norm_batch_size(layered(copy.deepcopy(plain[0])), 2, 8, torch.device("cpu"))
    assert ghost.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(shape)
    torch.testing.assert_close(ghost(x.clone()), grouped_by_hand(plain, x.clone(), 2))
    for (name, ours), theirs in zip(ghost.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    torch.testing.assert_close(ghost.eval()(x.clone()), plain.eval()(x.clone()))


def test_all_layers_of_a_timm_network_get_the_norm_batch() -> None:
    model = set_norm_batch_size(timm.create_model("efficientnet_b0"), 2, 8, torch.device("cpu"))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 49
    assert {getattr(m, "norm_batch_size", None) for m in norms} == {2}


def test_a_norm_that_is_used_in_several_places_stays_one() -> None:
    def shared() -> nn.Sequential:
        norm = nn.BatchNorm2d(8)
        return layered(norm, nn.ReLU(), norm, layered(norm))

    for model in (
        convert(shared(), norm_of(kind="gn", num_groups=2)),
        set_norm_batch_size(shared(), 2, 8, torch.device("cpu")),
    ):
        first, _, second, inner = model
        assert first is second is inner[0]
        assert type(first) is not nn.BatchNorm2d


class Odd(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_an_unknown_kind_of_batch_norm_is_refused() -> None:
    model = layered(nn.BatchNorm2d(4), Odd(4))
    with pytest.raises(UserError, match=r"norm_batch_size: 1 is a .*Odd, whose statistics"):
        set_norm_batch_size(model, 2, 8, torch.device("cpu"))
    assert type(model[0]) is nn.BatchNorm2d
