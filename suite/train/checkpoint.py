"""Checkpoints: written atomically, the newest two kept, damaged ones skipped when reading.

A checkpoint holds tensors and plain values only, and is read with `weights_only=True`. Order, crops,
mixup and dropout are functions of seed and step, so there is no generator state to keep.
"""

import io
import time
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from suite.errors import UserError
from suite.files import write_atomically
from suite.models import load_tensors
from suite.paths import RunPaths
from suite.train.background import Background

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


class CheckpointWriter:
    """Writes checkpoints on a thread, from copies on the device, while training goes on.

    The former one is waited for, so that there is one copy at a time. Errors of a thread are raised by the
    next call.
    """

    def __init__(self, store: CheckpointStore, device: torch.device) -> None:
        self._store, self._device = store, device
        self._background = Background("checkpoints")
        # The copies leave the GPU on a stream of their own, so that no step waits for them.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def save(self, step: int, state: dict[str, Any], done: Callable[[float], None]) -> None:
        """Begin `CheckpointStore.save` with a copy of `state`; `done` then gets its duration in seconds."""
        self._begin(state, lambda copy: self._store.save(step, copy), done)

    def save_best(self, state: dict[str, Any]) -> None:
        """Begin `CheckpointStore.save_best` with a copy of `state`."""
        self._begin(state, self._store.save_best, lambda _: None)

    def _begin(
        self, state: dict[str, Any], write: Callable[[dict[str, Any]], None], done: Callable[[float], None]
    ) -> None:
        self._background.wait()
        copy, stream = deepcopy(state), self._stream
        copied = None if stream is None else torch.cuda.current_stream(self._device).record_event()

        def work() -> None:
            start_s = time.monotonic()
            if stream is not None and copied is not None:
                stream.wait_event(copied)
            with nullcontext() if stream is None else torch.cuda.stream(stream):
                write(copy)
            done(time.monotonic() - start_s)

        self._background.begin(work)

    def wait(self) -> None:
        """Wait until what was begun is on disk. OSError if that failed."""
        self._background.wait()

    def close(self) -> None:
        """Wait, and end the thread. What has failed is logged."""
        self._background.close()


def _save_atomically(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    # Through memory: torch's own file writer hides a full disk behind an error about positions.
    content = io.BytesIO()
    torch.save(state, content)
    for left_over in path.parent.glob(".*.tmp"):  # by a process that was killed while it wrote
        left_over.unlink(missing_ok=True)
    write_atomically(path, content.getbuffer())
