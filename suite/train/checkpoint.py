"""Checkpoints: written atomically, the newest two kept, damaged ones skipped when reading.

A checkpoint holds tensors and plain values only, and is read with `weights_only=True`. Order, crops,
mixup and dropout are functions of seed and step, so there is no generator state to keep.
"""

import io
from pathlib import Path
from typing import Any

import torch

from suite.errors import UserError
from suite.files import write_atomically
from suite.models import load_tensors
from suite.paths import RunPaths

KEPT = 2


class CheckpointStore:
    """The checkpoints of one run folder."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps, and delete all but the newest two. OSError if it fails."""
        _save_atomically(self.paths.checkpoint(step), state)
        for old in self.paths.checkpoint_steps()[:-KEPT]:
            self.paths.checkpoint(old).unlink(missing_ok=True)

    def save_best(self, state: dict[str, Any]) -> None:
        """Replace the best epoch's weights."""
        _save_atomically(self.paths.best, state)

    def newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return the newest complete state, or None, and a sentence for each damaged one that is skipped."""
        passed_over: list[str] = []
        for step in reversed(self.paths.checkpoint_steps()):
            try:
                return load_tensors(self.paths.checkpoint(step)), passed_over
            except UserError as error:
                passed_over.append(f"{error}; passed over")
        return None, passed_over


def _save_atomically(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    # Through memory: torch's own file writer hides a full disk behind an error about positions.
    content = io.BytesIO()
    torch.save(state, content)
    for left_over in path.parent.glob(".*.tmp"):  # by a process that was killed while it wrote
        left_over.unlink(missing_ok=True)
    write_atomically(path, content.getbuffer())
