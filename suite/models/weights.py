"""Reads a checkpoint file, of ours or of other training code, and puts its weights into a network."""

import argparse
import re
import struct
from collections.abc import Mapping
from pathlib import Path, PosixPath
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.metrics import Weights
from suite.specs.choice import listed

Which = Weights
# Where training code keeps its weights, their exponential moving average, and their stochastic average.
RAW = ("state_dict", "model_state_dict", "model", "module", "network", "net", "weights")
EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model")
SWA = ("swa", "swa_model", "swa_state_dict", "model_swa", "state_dict_swa")
_KEYS: dict[Which, tuple[str, ...]] = {"raw": RAW, "ema": EMA, "swa": SWA}
_TITLES: dict[Which, str] = {
    "raw": "the weights themselves",
    "ema": "the moving average",
    "swa": "the stochastic average",
}
AVERAGE_TITLES = tuple(title for which, title in _TITLES.items() if which != "raw")
# What torch.load raises for a file that is cut short, damaged, or holds something else.
_UNREADABLE: tuple[type[Exception], ...] = (
    *(RuntimeError, EOFError, OSError, UnpicklingError, BadZipFile, LookupError, ValueError),
    *(TypeError, AttributeError, AssertionError, struct.error),
)
_WITHIN = re.compile(r"(?<=\.)_orig_mod\.|^_orig_mod\.")
# What torch refuses with `weights_only=True`, by its words, and what is right.
_FORBIDDEN = re.compile(
    r"GLOBAL ([\w.]+)|but got <class '([\w.]+)'>|unrecognized function <(?:[\w-]+ )*?([\w.]+)(?: at | of |>)"
    r"|must be imported to load (\w+?)s\b"
)
_REFUSED = {
    "TorchScript archive": "it is a TorchScript archive, and loading it would run its code; save the "
    "state dict of its network alone",
    "legacy .tar format": "it has the .tar format of the first versions of torch; save its state dict anew",
    "Unsupported operand": "it is damaged, or was saved with another pickle protocol than 2; save it with "
    "torch.save's own",
}
_REASON = re.compile(r"WeightsUnpickler error:\s*(.+)")


def load_tensors(path: Path | str) -> Any:
    """Read a checkpoint with `weights_only=True`: tensors and plain values, never code.

    Raises UserError, naming the file, when it is missing, cut short, or holds more than tensors; then with
    the class that it holds, and what would be right.
    """
    path = Path(path)
    allowed = _safe_globals()
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except _UNREADABLE as error:
        raise UserError(f"{path}: not a readable checkpoint of tensors: {_why_refused(error)}") from None


def _why_refused(error: Exception) -> str:
    """Return in a line what torch.load says of a file, with the class that it refuses."""
    said = str(error)
    if match := _FORBIDDEN.search(said):
        name = next(filter(None, match.groups()))
        return f"it holds an object of {name}, and loading it could run code; save a state dict alone"
    for words, why in _REFUSED.items():
        if words in said:
            return why
    reason = match[1] if (match := _REASON.search(said)) else said.split(". ")[0].partition("\n")[0]
    return reason or type(error).__name__


def load_weights(model: nn.Module, path: Path | str, which: Which | None = None) -> str:
    """Load a checkpoint into `model`, and return a phrase that says what was taken of it.

    The state dict may be the whole file (also .safetensors) or lie under one of the keys `RAW`, `EMA`, `SWA`.
    `which`: the weights themselves, their moving or their stochastic average; None: the moving average if
    there is one, else the weights themselves. A prefix that all names share (`module.`, `_orig_mod.`,
    `model.`, `backbone.`) is removed where the model's names lack it, and `_orig_mod.`, of a compiled part,
    also within names. Raises UserError for names or
    shapes that do not fit, with the first one that differs, or the two numbers of classes.
    """
    state, taken = read_weights(model, path, which)
    put_weights(model, state, path)
    return taken


def read_weights(
    model: nn.Module, path: Path | str, which: Which | None = None
) -> tuple[dict[str, Tensor], str]:
    """Return a checkpoint's tensors by the model's names, and what was taken of it; as for `load_weights`.

    The model stays as it is. Whether the tensors fit is left to `put_weights`.
    """
    state, taken = _state_dict(load_tensors(path), which, path)
    state, prefix = _without_prefix(state, model.state_dict())
    return state, f"{taken}, without the prefix {prefix!r}" if prefix else taken


def put_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Put a state dict into the model. Raises UserError, led by `path`, as `load_weights` does."""
    _check_fits(state, model.state_dict(), path)
    model.load_state_dict(dict(state), strict=False)


def _safe_globals() -> list[Any]:
    """Return the classes that may be in a file beside tensors: options, paths, numpy's numbers and arrays.

    Also numpy's texts and times, but none of its kinds that hold objects.
    """
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    kinds = {
        type(np.dtype(code)) for code in (*np.typecodes["AllFloat"], *np.typecodes["AllInteger"], *"?SUmM")
    }
    # Files of numpy 1 name the module that numpy 2 has renamed.
    old = [(scalar, "numpy.core.multiarray.scalar"), (array, "numpy.core.multiarray._reconstruct")]
    return [argparse.Namespace, PosixPath, scalar, array, *old, np.ndarray, np.dtype, *kinds]


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f"{path}: needs safetensors, which is not installed: pip install safetensors"
        ) from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable checkpoint of tensors: {error}") from None


def _state_dict(content: Any, which: Which | None, path: Path | str) -> tuple[dict[str, Tensor], str]:
    """Return names to tensors, and where they lay. Raises UserError when there are none."""
    if which not in (None, *_KEYS):
        raise UserError(f"weights: expected {listed(_KEYS, 'or')}, got {which!r}")
    if isinstance(content, Mapping):
        found = {key: _tensors(content.get(key)) for keys in _KEYS.values() for key in keys}
        preferred: tuple[Which, ...] = ("ema", "raw") if which is None else (which,)
        for kind in preferred:
            for key in _KEYS[kind]:
                if state := found[key]:
                    others = [name for name in (*EMA, *SWA) if found[name]]
                    note = f" ({_TITLES[kind]})" if kind != "raw" else ""
                    note = f" and not {others[0]!r}" if kind == "raw" and others else note
                    return state, f"{key!r}{note}"
        if which in ("ema", "swa"):
            names = ", ".join(_KEYS[which][:3])
            raise UserError(f"{path}: holds no {_TITLES[which].removeprefix('the ')} of weights ({names}, …)")
        if state := _tensors(content):
            return state, "the whole file"
    raise UserError(f"{path}: holds no state dict (names to tensors)")


def _tensors(value: Any) -> dict[str, Tensor]:
    """Return a state dict, which may lie under one of the keys `RAW` once more; empty if it is none."""
    if not isinstance(value, Mapping) or not value:
        return {}
    if all(isinstance(tensor, Tensor) for tensor in value.values()):
        # AveragedModel counts its updates in a tensor of its own.
        return {str(name): tensor for name, tensor in value.items() if name != "n_averaged"}
    return next((state for key in RAW if (state := _tensors(value.get(key)))), {})


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors without the longest prefix that all names share and the model's names lack."""
    prefix = ""
    while state and not own.keys() & state.keys():
        first = next(iter(state)).partition(".")[0] + "."
        if not all(name.startswith(first) and name != first for name in state):
            break
        state = {name.removeprefix(first): tensor for name, tensor in state.items()}
        prefix += first
    plain = {_WITHIN.sub("", name): tensor for name, tensor in state.items()}
    return (plain if plain.keys() <= own.keys() else state), prefix


def _check_fits(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path | str) -> None:
    # Checkpoints from before torch 0.4.1 lack this counter, which nothing here computes with.
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unknown = [n for n in state if n not in own]
    shapes = [n for n in own if n in state and own[n].shape != state[n].shape]
    if shapes and not missing and not unknown:
        theirs, ours = (tuple(s[shapes[0]].shape) for s in (state, own))
        # Only the classifier differs: each of its tensors in the number of rows alone.
        pairs = [(state[n].shape, own[n].shape) for n in shapes]
        if all((a[:1], b[:1]) == (theirs[:1], ours[:1]) and a[1:] == b[1:] for a, b in pairs):
            raise UserError(
                f"{path}: has {theirs[0]} classes and the model {ours[0]} ({shapes[0]}); "
                f"make the model with num_classes {theirs[0]}"
            )
    if missing or unknown or shapes:
        named = {"missing": missing, "unknown": unknown, "of another shape": shapes}
        parts = [f"{len(names)} {kind} (first: {names[0]})" for kind, names in named.items() if names]
        raise UserError(f"{path}: does not fit the model: {', '.join(parts)}")
