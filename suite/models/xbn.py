"""XBN and other norms as a transformation: replaces norms at chosen sites of a network."""

import logging
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from suite.errors import UserError
from suite.experiment import BatchFreeSpec, BatchNormSpec, NormSpec, VariantSpec, XbnSpec
from suite.models.activations import activation_behind, without_activations
from suite.models.batch_free import batch_free_norm
from suite.models.norm_sites import NormSite, batch_norms, norm_sites, replace_modules
from suite.models.norms.centred import centre_weights, layer_before
from suite.specs.choice import resolve
from suite.specs.norm import norm_spec
from suite.specs.norm_table import BATCH_FREE_NORMS, BATCH_NORM_VARIANTS

log = logging.getLogger("shiftbench")


def convert(
    model: nn.Module, norm: NormSpec | dict[str, Any] | str, sites: list[str] | None = None
) -> nn.Module:
    """Replace norms in place, as `norm` specifies, and return the model.

    `norm` may also be a mapping, such as {"kind": "xbn", "position": "p2"}, or its kind alone.

    Works on any torchvision or timm residual network; for another one, name the modules in `sites`. If
    `num_groups` and `stem` are null, they are as released for ResNets: 64 groups (32 everywhere), and only a
    ResNet's stem. New norms have fresh parameters of the old norm's device, type, mode and `requires_grad`,
    and no scale and shift where the old norm had none. FRN and EvoNorm take the place of the activation
    behind them, where there is one. A variant of BN replaces all BN layers; if it does not subtract a mean
    (MABN), the weights before it are centred. Raises UserError, with the model as it was, for a norm that is
    none, an unknown layout or site, a network without batch norms, and groups that do not divide the
    channels.
    """
    norm = norm_spec(norm)
    if isinstance(norm, BatchNormSpec):
        return model
    if not isinstance(norm, VariantSpec):
        norm = _as_released(model, norm)
    norms = batch_norms(model)
    if not norms and sites is None:
        frozen = sum(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
        thaw = "which suite.detection.frozen.thaw_batch_norms makes BN again"
        reason = f": its {frozen} norms are constants, {thaw}" if frozen else ""
        raise UserError(f"{type(model).__name__} has no batch norm that could be replaced{reason}")
    names = [site.name for site in chosen_sites(model, norm)] if sites is None else sites
    for name in names:
        if name not in norms:
            raise UserError(f"{name!r} is not a batch norm of the model; valid: {', '.join(norms)}")
    behind = {name: activation_behind(model, name) for name in names} if _activates(norm) else {}
    before = [layer_before(model, name) for name in names] if _centres_weights(norm) else []
    found = {name: _replacement(norms[name], norm, name, behind.get(name)) for name in names}
    _say_where_groups_have_one_channel(norms, found)
    replace_modules(model, {norms[name]: new for name, new in found.items()})  # all of them, or none
    without_activations(model, [act for name, act in behind.items() if act and act != f"{name}.act"])
    centre_weights(model, before)
    return model


def _activates(norm: NormSpec) -> bool:
    """Return whether a norm contains an activation."""
    bfn = norm.bfn if isinstance(norm, XbnSpec) else norm.kind
    return bfn in BATCH_FREE_NORMS and BATCH_FREE_NORMS[bfn].activates


def _centres_weights(norm: NormSpec) -> bool:
    return isinstance(norm, VariantSpec) and BATCH_NORM_VARIANTS[norm.kind].centres_weights


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


def _replacement(
    old: _BatchNorm, norm: XbnSpec | BatchFreeSpec | VariantSpec, name: str, behind: str | None
) -> nn.Module:
    """Return the new norm for one site; `behind` is the activation whose place it takes.

    Raises UserError when its groups, or the momentum of the old norm, do not fit.
    """
    if isinstance(norm, VariantSpec):
        new = _variant(old, norm, name)
    else:
        bfn = norm.bfn if isinstance(norm, XbnSpec) else norm.kind
        is_active = behind is not None
        try:
            new = batch_free_norm(bfn, old.num_features, norm.num_groups, old.affine, is_active)
        except ValueError as error:
            raise UserError(f"norm.num_groups at {name}: {error}") from None
    example = next((t for t in old.state_dict().values() if t.is_floating_point()), torch.empty(0))
    # timm's BatchNormAct2d is a BatchNorm2d with `drop` and `act`, which are kept.
    kept = [child for child in ("drop", "act") if f"{name}.{child}" != behind]
    rest = [module for child, module in old.named_children() if child in kept]
    new = new.to(example.device, example.dtype).train(old.training)
    if old.affine:
        new.requires_grad_(old.weight.requires_grad)
    return nn.Sequential(new, *rest).train(old.training) if rest else new


def _variant(old: _BatchNorm, norm: VariantSpec, name: str) -> nn.Module:
    settings = {"eps": old.eps, "momentum": old.momentum, "affine": old.affine, **norm.options}
    try:
        new: nn.Module = resolve(BATCH_NORM_VARIANTS[norm.kind].constructor)(old.num_features, **settings)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    return new


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
    if isinstance(norm, BatchFreeSpec | VariantSpec):
        norms = batch_norms(model)
        return [NormSite(name, frozenset({"any"}), layer.num_features) for name, layer in norms.items()]
    norm = _as_released(model, norm)
    assert isinstance(norm, XbnSpec)
    extras = {"stem": norm.stem, "downsample": norm.downsample}
    wanted = {norm.position, *(role for role, is_wanted in extras.items() if is_wanted)}
    sites = norm_sites(model)
    for role in sorted({role for role, is_wanted in extras.items() if is_wanted}):
        if not any(role in site.roles for site in sites):
            what = f"{type(model).__name__} has none of a known layout"
            log.warning("norm.%s: %s; none is converted", role, what)
    if (stages := norm.stages) is not None:
        if unknown := set(stages) - {site.stage for site in sites}:
            first = min(unknown)
            raise UserError(f"norm.stages: {type(model).__name__} has no stage {first} (layer{first})")
        sites = [site for site in sites if "stem" in site.roles or site.stage in stages]
    return [site for site in sites if site.roles & wanted]
