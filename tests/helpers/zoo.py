"""Every network of timm and torchvision, converted: `python -m tests.helpers.zoo` rewrites docs/networks.md.

That takes five minutes, for 1,500 networks, so tests read the table and try one network of each family.
"""

import importlib.metadata
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

from suite.errors import UserError
from suite.models import chosen_sites, convert

TABLE = Path(__file__).parents[2] / "docs" / "networks.md"
P2 = {"kind": "xbn", "position": "p2", "num_groups": 1, "stem": True}
VERSIONS = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("timm", "torchvision"))
HEAD = f"""# The networks that can be converted

`convert` places batch-free norms by the layout of a network's residual blocks, which it recognises by their
parts ([the roles](../suite/models/norm_sites.py)). It refuses a network of which fewer than half of the batch
norms are in blocks of a known layout, and leaves it as it was; `sites` then names the norms to convert.

This table covers every architecture of {VERSIONS} that has batch norms. In each network that was converted,
every P2 norm follows a convolution that mixes pixels, in the order of definition. A test tries one network of
each row; `make networks` writes the table anew.

| Family | Converted | Refused | For example |
|---|---:|---:|---|
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
    """What became of a network. `misplaced`: P2 norms that do not follow a convolution that mixes pixels."""

    family: str
    is_converted: bool
    misplaced: tuple[str, ...] = ()


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
    follows = preceding_convolutions(model)
    if sites is None:
        try:
            convert(model, P2)
        except UserError:
            assert kinds(model) == before, f"{name} was refused, and changed"
            return Outcome(family, is_converted=False)
        raise AssertionError(f"{name} was converted, although its sites are not known")
    wrong = [site.name for site in sites if "p2" in site.roles and max(follows[site.name], default=1) == 1]
    convert(model, P2)
    changed = {place for place, kind in kinds(model).items() if before.get(place) != kind}
    assert {site.name for site in sites} == {place for place in changed if place in before}, name
    return Outcome(family, is_converted=True, misplaced=tuple(wrong))


def kinds(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def preceding_convolutions(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return, for each batch norm, the kernel of the convolution that is defined last before it."""
    kernel: tuple[int, ...] = ()
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            kernel = tuple(module.kernel_size)
        elif isinstance(module, _BatchNorm):
            found[name] = kernel
    return found


def rows() -> dict[str, tuple[int, int, str]]:
    """Read the table: for each family, how many are converted and refused, and an example of the majority."""
    lines = (line.split("|") for line in TABLE.read_text().splitlines() if line.startswith("| `"))
    return {cells[1].strip(" `"): (int(cells[2]), int(cells[3]), cells[4].strip(" `")) for cells in lines}


def main() -> None:
    """Try every network, and write the table."""
    outcomes: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for name in names():
        if (outcome := tried(name)) is not None:
            assert not outcome.misplaced, f"{name}: {outcome.misplaced}"
            outcomes[outcome.family].append((name, outcome.is_converted))
    text, totals = HEAD, [0, 0]
    for family, members in sorted(outcomes.items(), key=lambda item: item[0].lower()):
        converted = sum(is_converted for _, is_converted in members)
        refused = len(members) - converted
        example = next(name for name, is_converted in members if is_converted == (converted >= refused))
        text += f"| `{family}` | {converted} | {refused} | `{example}` |\n"
        totals = [totals[0] + converted, totals[1] + refused]
    text += f"| All {len(outcomes)} families | {totals[0]} | {totals[1]} | |\n"
    TABLE.write_text(text)


if __name__ == "__main__":
    main()
