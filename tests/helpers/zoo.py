"""Every network of timm and torchvision, converted: `python -m tests.helpers.zoo` rewrites docs/networks.md.

That takes five minutes, for 1,500 networks, so tests read the table and try one network of each family.
"""

import contextlib
import importlib.metadata
import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from suite.errors import UserError
from suite.models import chosen_sites, convert

TABLE = Path(__file__).parents[2] / "docs" / "networks.md"
P2 = {"kind": "xbn", "position": "p2", "num_groups": 1, "stem": True}
VERSIONS = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("timm", "torchvision"))
HEAD = f"""# The networks that can be converted

`convert` places batch-free norms by the layout of a network's residual blocks, which it recognises by their
parts ([the roles](../suite/models/norm_sites.py)). It refuses a network of which fewer than half of the batch
norms are in blocks of a known layout, and leaves it as it was; `sites` then names the norms to convert. FRN
and EvoNorm take the place of the activation behind them, which is known for `nn.Sequential`, torchvision's
and timm's ResNets, timm's norms with activation, and torchvision's mobile networks and RegNets; they are
refused elsewhere.

This table covers every architecture of {VERSIONS} that has batch norms. In each network that was converted,
every P2 norm follows a convolution that mixes pixels, as a pass through the network shows, and every block of
a class of which one has a P2 norm has one. A test tries the examples; `make networks` writes the table anew.

| Family | Converted | for example | Refused | for example |
|---|---:|---|---:|---|
"""


class WithoutValues(TorchFunctionMode):
    """Skips functions that only change the values of tensors, which take most of the time on meta."""

    KEPT = frozenset({"requires_grad_", "set_", "resize_", "t_", "transpose_", "squeeze_", "unsqueeze_"})

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        is_in_place = name.endswith("_") and not name.endswith("__") and name not in self.KEPT
        if is_in_place and args and isinstance(args[0], torch.Tensor):
            return args[0]
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Outcome:
    """What became of a network.

    `misplaced`: P2 norms that do not follow a convolution that mixes pixels. `missed`: blocks of a class of
    which others have a P2 norm, that hold norms behind such a convolution and have none.
    """

    family: str
    is_converted: bool
    misplaced: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()


def names() -> Iterator[str]:
    """Yield every architecture as `timm/resnet50`."""
    yield from (f"timm/{name}" for name in timm.list_models())
    yield from (f"torchvision/{name}" for name in torchvision.models.list_models())


def build(name: str) -> nn.Module:
    """Return a network without values in its tensors, on the meta device if it can be there."""
    try:
        with torch.device("meta"), WithoutValues():
            return _made(name)
    except NotImplementedError:  # torchvision's RegNets compute their sizes with tensors
        with WithoutValues():
            return _made(name)


def _made(name: str) -> nn.Module:
    library, _, architecture = name.partition("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "timm":
            model: nn.Module = timm.create_model(architecture)
            return model
        config = torchvision.models.get_model_builder(architecture)
        takes_backbone = "weights_backbone" in config.__wrapped__.__annotations__
        options = {"weights_backbone": None} if takes_backbone else {}
        made: nn.Module = config(weights=None, **options)
        return made


def tried(name: str) -> Outcome | None:
    """Convert a network, and look at it; None if it has no batch norm. A refused one must be untouched."""
    model = build(name)
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return None
    family, before = f"{name.partition('/')[0]} {type(model).__name__}", kinds(model)
    try:
        sites = chosen_sites(model, P2)
    except UserError:
        sites = None
    mixed = norms_that_follow_mixing(model)
    if sites is None:
        try:
            convert(model, P2)
        except UserError:
            assert kinds(model) == before, f"{name} was refused, and changed"
            return Outcome(family, is_converted=False)
        raise AssertionError(f"{name} was converted, although its sites are not known")
    p2 = {site.name for site in sites if "p2" in site.roles}
    found = tuple(blocks_without(model, p2, mixed))
    convert(model, P2)
    changed = {place for place, kind in kinds(model).items() if before.get(place) != kind}
    assert {site.name for site in sites} == {place for place in changed if place in before}, name
    return Outcome(family, is_converted=True, misplaced=tuple(sorted(p2 - mixed)), missed=found)


def blocks_without(model: nn.Module, p2: set[str], mixed: set[str]) -> Iterator[str]:
    """Yield the blocks that were missed. A block is the least module with a P2 norm and another norm."""
    modules = dict(model.named_modules())

    def block_of(name: str) -> nn.Module:
        while name:
            name = name.rpartition(".")[0]
            if sum(isinstance(module, _BatchNorm) for module in modules[name].modules()) > 1:
                break
        return modules[name]

    classes = {type(block_of(name)) for name in p2} - {nn.Sequential}
    for name, module in modules.items():
        of_it = {norm for norm in mixed if norm.startswith(f"{name}.")}
        if type(module) in classes and of_it and not of_it & p2:
            yield name


def kinds(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes at each tensor the kernels of the convolutions that made it: several where a sum joins paths."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        given = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)]
        if function._schema.name == "aten::convolution":
            kernels = frozenset({max(args[1].shape[2:], default=1)})
        elif function._schema.name in ("aten::add", "aten::add_", "aten::cat"):
            kernels = frozenset().union(*(kernels_behind(tensor) for tensor in given))
        else:
            kernels = next(filter(None, map(kernels_behind, given)), frozenset())
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                tensor.kernels = kernels  # type: ignore[attr-defined]
        return out


def kernels_behind(tensor: torch.Tensor) -> frozenset[int]:
    return getattr(tensor, "kernels", frozenset())


def norms_that_follow_mixing(model: nn.Module) -> set[str]:
    """Return the batch norms whose inputs all come from convolutions that mix pixels, as a pass shows.

    The definition's order serves for norms that no pass in inference mode reaches.
    """
    kernels: dict[str, frozenset[int]] = {}

    def look(name: str, inputs: tuple[torch.Tensor, ...]) -> None:
        kernels.setdefault(name, kernels_behind(inputs[0]))

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs))
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    # Detectors fail behind their backbone, where boxes depend on values, which tensors on meta lack.
    watch = Kernels()  # type: ignore[no-untyped-call]
    with torch.no_grad(), watch, contextlib.suppress(NotImplementedError):
        model.eval()(*inputs_of(model))
    for hook in hooks:
        hook.remove()
    defined = defined_before(model)
    return {
        name for name in defined if min(kernels.get(name) or {max(defined[name], default=1)}, default=1) > 1
    }


def inputs_of(model: nn.Module) -> list[torch.Tensor]:
    """Return images, pairs of images or a video, as the network takes them."""
    like = next(model.parameters())
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[1]
    first = next(module for module in model.modules() if isinstance(module, _ConvNd))
    shape = (2, 3, 16, 224, 224) if isinstance(first, nn.Conv3d) else (2, 3, size, size)
    is_of_pairs = "image2" in inspect.signature(model.forward).parameters
    return [like.new_empty(shape) for _ in range(1 + is_of_pairs)]


def defined_before(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return, for each batch norm, the kernel of the convolution that is defined last before it."""
    kernel: tuple[int, ...] = ()
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            kernel = tuple(module.kernel_size)
        elif isinstance(module, _BatchNorm):
            found[name] = kernel
    return found


def examples() -> list[tuple[str, str, bool]]:
    """Read the table: a family, a network of it, and whether that is converted, for both outcomes."""
    lines = (line.split("|") for line in TABLE.read_text().splitlines() if line.startswith("| `"))
    cells = [[cell.strip(" `") for cell in line] for line in lines]
    return [
        (family, name, is_converted)
        for _, family, _, converted, _, refused, _ in cells
        for name, is_converted in ((converted, True), (refused, False))
        if name
    ]


def main() -> None:
    """Try every network, and write the table."""
    outcomes: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for name in names():
        if (outcome := tried(name)) is not None:
            assert not outcome.misplaced, f"{name}: {outcome.misplaced}"
            assert not outcome.missed, f"{name}: {outcome.missed}"
            converted, refused = outcomes[outcome.family]
            (converted if outcome.is_converted else refused).append(name)
    lines, totals = [], [0, 0]
    for family, (converted, refused) in sorted(outcomes.items(), key=lambda item: item[0].lower()):
        cells = [f"`{family}`"]
        for number, members in enumerate((converted, refused)):
            cells += [str(len(members)), f"`{members[0]}`" if members else ""]
            totals[number] += len(members)
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| All {len(outcomes)} families | {totals[0]} | | {totals[1]} | |")
    TABLE.write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
