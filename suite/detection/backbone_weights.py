"""Puts the weights of a trained network into a detector's backbone, and says which names do not fit."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from suite.errors import UserError
from suite.models import read_weights
from suite.paths import RunPaths
from suite.specs.task import TORCHVISION
from suite.user import expand_path

BODY = "backbone.body."  # of torchvision's detectors
CLASSIFIERS = ("fc.", "classifier.", "head.")
COUNTER = "num_batches_tracked"
SHOWN = 4  # names in a sentence
log = logging.getLogger("shiftbench")


@dataclass(frozen=True)
class Loaded:
    """What was taken of a file: how many tensors, which of the backbone's it lacks, and which were left."""

    path: Path
    num_tensors: int
    missing: tuple[str, ...]
    left: tuple[str, ...]


def load_backbone(body: nn.Module, source: str) -> Loaded:
    """Put weights into a network without its classifier, and log the names that do not fit.

    `source`: the folder of a run, whose newest checkpoint is read; a checkpoint file, also of a detector; or
    torchvision:NAME, whose file lies in torch's cache. Raises UserError for one that leads to no file, for
    tensors of another shape, and for a file that lacks a convolution of the network.
    """
    path = backbone_file(source)
    state, _ = read_weights(body, path)
    if inside := {n.removeprefix(BODY): tensor for n, tensor in state.items() if n.startswith(BODY)}:
        state = inside
    own = {name: tensor for name, tensor in body.state_dict().items() if not name.startswith(CLASSIFIERS)}
    _check_widths(own, state, path)
    found = {name: state[name] for name in own if name in state}
    body.load_state_dict(found, strict=False)
    missing = [name for name in own if name not in state and not name.endswith(COUNTER)]
    left = [name for name in state if name not in own and not name.startswith(CLASSIFIERS)]
    left = [name for name in left if not name.endswith(COUNTER)]
    if missing:
        log.warning("%s lacks %s: they start from their first values", path, _listed(missing))
    if left:
        log.warning("%s has %s that the backbone lacks: they are left out", path, _listed(left))
    return Loaded(path, len(found), tuple(missing), tuple(left))


def backbone_file(source: str) -> Path:
    """Return the checkpoint that a `backbone_from` means. Raises UserError where there is none."""
    if source.startswith(TORCHVISION):
        return _torchvisions_file(source.removeprefix(TORCHVISION))
    path = expand_path(source, "task.backbone_from")
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"task.backbone_from: {path}: no such file, and no folder of a run")
        return path
    paths = RunPaths(path)
    if not paths.run.exists():
        raise UserError(f"task.backbone_from: {path} holds no run (no run.json)")
    if not (steps := paths.checkpoint_steps()):
        raise UserError(f"task.backbone_from: {path} has no checkpoint: train that run first")
    return paths.checkpoint(steps[-1])


def _torchvisions_file(name: str) -> Path:
    try:
        weights = torchvision.models.get_weight(name)
    except ValueError:
        form = "such as torchvision:ResNet50_Weights.IMAGENET1K_V1"
        raise UserError(f"task.backbone_from: torchvision has no weights named {name!r}; {form}") from None
    path: Path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not path.is_file():
        raise UserError(f"task.backbone_from: {path} is missing: download it from {weights.url}")
    return path


def _check_widths(own: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> None:
    if different := [name for name in own if name in state and own[name].shape != state[name].shape]:
        first = different[0]
        theirs, ours = tuple(state[first].shape), tuple(own[first].shape)
        raise UserError(
            f"task.backbone_from: {path} is of other widths: {first} is {theirs}, and {ours} in the backbone"
            f" ({len(different)} names differ)"
        )
    if absent := [name for name in own if own[name].dim() == 4 and name not in state]:
        raise UserError(
            f"task.backbone_from: {path} is of another network: it lacks {_listed(absent)} of the backbone"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} names ({', '.join(names[:SHOWN])}{more})"
