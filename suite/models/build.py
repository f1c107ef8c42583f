"""From a ModelSpec to a network, and from a checkpoint file to its weights."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.architectures import ARCHITECTURES
from suite.errors import UserError
from suite.experiment import ModelSpec
from suite.models.xbn import convert
from suite.specs.choice import resolve

# What torch.load raises for a file that is cut short or holds something else.
_UNREADABLE = (RuntimeError, EOFError, OSError, UnpicklingError, BadZipFile, KeyError, ValueError)


def build_model(spec: ModelSpec) -> nn.Module:
    """Return the network with freshly initialised weights, on the CPU. Seed torch first to fix them.

    Raises UserError when the spec's groups do not fit the channels at some site.
    """
    assert spec.num_classes is not None, "Run fills num_classes from its data"
    build = resolve(ARCHITECTURES[spec.arch].family.builder)
    model: nn.Module = build(spec.arch, spec.num_classes)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = spec.bn_momentum
    return convert(model, spec.norm)


def load_tensors(path: Path | str) -> Any:
    """Read a checkpoint with `weights_only=True`: tensors and plain values, never code.

    Raises UserError, naming the file, when it is missing, cut short, or holds more than tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except _UNREADABLE as error:
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint of tensors: {reason}") from None


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a released checkpoint (a bare state dict) or one of this suite's into `model`.

    The state dict may also lie under `model` or `state_dict`, and all of its names may carry the prefix of
    DataParallel (`module.`) or compile (`_orig_mod.`). Raises UserError for names or shapes that do not
    fit, with the first one that differs, or the two numbers of classes.
    """
    content = load_tensors(path)
    state = content
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: holds no state dict (names to tensors)")
    own = model.state_dict()
    for prefix in ("module.", "_orig_mod."):
        if all(n.startswith(prefix) for n in state) and not any(n.startswith(prefix) for n in own):
            state = {n.removeprefix(prefix): v for n, v in state.items()}
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
    model.load_state_dict(state, strict=False)
