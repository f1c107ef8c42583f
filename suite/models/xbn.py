"""XBN as a transformation: replaces chosen norm sites of a network."""

import logging
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.errors import UserError
from suite.experiment import BatchFreeSpec, BatchNormSpec, NormSpec, XbnSpec
from suite.models.batch_free import batch_free_norm
from suite.models.norm_sites import NormSite, batch_norms, norm_sites
from suite.specs.model import norm_spec

log = logging.getLogger("shiftbench")


def convert(
    model: nn.Module, norm: NormSpec | dict[str, Any] | str, sites: list[str] | None = None
) -> nn.Module:
    """Replace norms in place, as `norm` specifies, and return the model.

    `norm` may also be a mapping, such as {"kind": "xbn", "position": "p2"}, or its kind alone.

    Works on any torchvision or timm residual network; for another one, name the modules in `sites`. If
    `num_groups` and `stem` are null, they are as released for ResNets: 64 groups (32 everywhere), and only a
    ResNet's stem. New norms have fresh parameters of the old norm's device, type, mode and `requires_grad`,
    and none where the old norm had none. Raises UserError, with the model as it was, for a norm that is
    none, an unknown layout or site, a network without batch norms, and groups that do not divide the
    channels.
    """
    norm = norm_spec(norm)
    if isinstance(norm, BatchNormSpec):
        return model
    norm = _as_released(model, norm)
    norms = batch_norms(model)
    if not norms and sites is None:
        raise UserError(f"{type(model).__name__} has no batch norm that could be replaced")
    found = {}
    for name in [site.name for site in chosen_sites(model, norm)] if sites is None else sites:
        if name not in norms:
            raise UserError(f"{name!r} is not a batch norm of the model; valid: {', '.join(norms)}")
        found[name] = _replacement(norms[name], norm, name)
    _say_where_groups_have_one_channel(norms, found)
    for name, new in found.items():  # all of them, or none
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model


def _say_where_groups_have_one_channel(norms: dict[str, _BatchNorm], found: dict[str, nn.Module]) -> None:
    """Log at which sites GN has as many groups as channels, to which the groups were clipped or equal."""
    single = []
    for name, new in found.items():
        norm = next(iter(new.children()), new) if isinstance(new, nn.Sequential) else new
        if isinstance(norm, nn.GroupNorm) and norm.affine and norm.num_groups == norm.num_channels > 1:
            single.append(name)
    if single:
        some = ", ".join(single[:3]) + (", …" if len(single) > 3 else "")
        flat = any(isinstance(norms[name], nn.BatchNorm1d) for name in single)
        zero = ", and gives zeros where an input has no pixels" if flat else ""
        log.warning(
            "groups of one channel at %d of %d norms (%s): GN is an instance norm there%s",
            *(len(single), len(found), some, zero),
        )


def _replacement(old: _BatchNorm, norm: XbnSpec | BatchFreeSpec, name: str) -> nn.Module:
    """Return the batch-free norm for one site. Raises UserError when its groups do not fit."""
    bfn = norm.bfn if isinstance(norm, XbnSpec) else norm.kind
    try:
        new = batch_free_norm(bfn, old.num_features, norm.num_groups, old.affine)
    except ValueError as error:
        raise UserError(f"norm.num_groups at {name}: {error}") from None
    if isinstance(new, nn.InstanceNorm2d) and isinstance(old, nn.BatchNorm1d | nn.BatchNorm3d):
        new = nn.GroupNorm(old.num_features, old.num_features, affine=False)  # the same, with any pixels
    example = next((t for t in old.state_dict().values() if t.is_floating_point()), torch.empty(0))
    # timm's BatchNormAct2d is a BatchNorm2d with `drop` and `act`, which are kept.
    rest = [m for child, m in old.named_children() if child in ("drop", "act")]
    new = new.to(example.device, example.dtype).train(old.training)
    if old.affine:
        new.requires_grad_(old.weight.requires_grad)
    return nn.Sequential(new, *rest).train(old.training) if rest else new


def _as_released(model: nn.Module, norm: XbnSpec | BatchFreeSpec) -> XbnSpec | BatchFreeSpec:
    """Return the spec with its nulls filled, for a network whose name is unknown."""
    update: dict[str, object] = {}
    if norm.num_groups is None:
        update["num_groups"] = 64 if isinstance(norm, XbnSpec) else 32
    if isinstance(norm, XbnSpec) and norm.stem is None:
        resnet_block = {"conv1", "bn1", "conv2", "bn2"}
        update["stem"] = any(resnet_block <= dict(m.named_children()).keys() for m in model.modules())
    return norm.model_copy(update=update)


def chosen_sites(model: nn.Module, norm: NormSpec | dict[str, Any] | str) -> list[NormSite]:
    """Return the sites of which `convert` would replace the norms. Raises UserError as it does."""
    norm = norm_spec(norm)
    if isinstance(norm, BatchNormSpec):
        return []
    if isinstance(norm, BatchFreeSpec):
        norms = batch_norms(model)
        return [NormSite(name, frozenset({"any"}), layer.num_features) for name, layer in norms.items()]
    norm = _as_released(model, norm)
    assert isinstance(norm, XbnSpec)
    extras = {"stem": norm.stem, "downsample": norm.downsample}
    wanted = {norm.position, *(role for role, is_wanted in extras.items() if is_wanted)}
    sites = norm_sites(model)
    if (stages := norm.stages) is not None:
        if unknown := set(stages) - {site.stage for site in sites}:
            first = min(unknown)
            raise UserError(f"norm.stages: {type(model).__name__} has no stage {first} (layer{first})")
        sites = [site for site in sites if "stem" in site.roles or site.stage in stages]
    return [site for site in sites if site.roles & wanted]
