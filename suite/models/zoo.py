"""Any network by name: torchvision's, timm's, or the user's by its import path."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from suite.errors import UserError

FORMS = "torchvision:NAME, timm:NAME or module:function"


def named_model(name: str, num_classes: int | None = None) -> nn.Module:
    """Return the network with its initial weights, on the CPU. Seed torch first to fix them.

    `name` is torchvision:NAME or timm:NAME, built with `num_classes` outputs (None: its own number), or
    module:function, importable from the current directory too. The function is called with
    `num_classes` if it has a parameter of that name, else without arguments; it may also be a network itself.
    Its own exceptions pass through. Raises UserError for a name that leads to no network.
    """
    source, colon, rest = name.partition(":")
    if not colon or not source or not rest:
        raise UserError(f"--model: expected {FORMS}, got {name!r}")
    classes: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if source == "torchvision":
        _check_known(rest, torchvision.models.list_models(module=torchvision.models), "torchvision")
        model: nn.Module = torchvision.models.get_model(rest, weights=None, **classes)
    elif source == "timm":
        try:
            import timm
        except ModuleNotFoundError as error:
            if error.name != "timm":
                raise
            raise UserError(f"--model: {name} needs timm, which is not installed: pip install timm") from None
        if not timm.is_model(rest):
            _check_known(rest, timm.list_models(), "timm")
        model = timm.create_model(rest, pretrained=False, **classes)
    else:
        model = _own_model(source, rest, num_classes)
    return model


def _check_known(name: str, known: Iterable[str], library: str) -> None:
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"--model: {library} has no network for classification named {name!r}{hint}")


def _own_model(module_name: str, attribute: str, num_classes: int | None) -> nn.Module:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A package that the module itself lacks is a different error, which its traceback explains.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"--model: no module {module_name!r}, neither installed nor below {here}") from None
    found = getattr(module, attribute, None)
    if found is None:
        raise UserError(f"--model: {module_name} ({module.__file__}) has no {attribute!r}")
    if not isinstance(found, nn.Module) and callable(found):
        takes_classes = num_classes is not None and "num_classes" in inspect.signature(found).parameters
        found = found(num_classes=num_classes) if takes_classes else found()
    if not isinstance(found, nn.Module):
        kind = type(found).__name__
        raise UserError(f"--model: {module_name}:{attribute} gives {kind}, not a torch.nn.Module")
    return found
