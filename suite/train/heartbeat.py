"""A rank's progress, written to the status file, and the requests to stop that it has received."""

import logging
import time
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Any

from suite.record import PHASES, RecordWriter
from suite.signals import StopFlag
from suite.train.background import Background
from suite.train.hang_watch import goes_on
from suite.train.meter import Meter

EVERY_S = 5.0  # between two writes of the status file, and between two checks for a stop request
LOG_EVERY_S = 15.0  # between two lines of the log

log = logging.getLogger("shiftbench")


class Next(IntEnum):
    """What a rank wants to do next. The ranks agree on the largest."""

    CONTINUE = 0
    STOP = 1
    STOP_WARNED = 2
    """Stop because a scheduler's warning has come: the job will be queued again."""
    FAIL = 3
    """Stop because the loss is not finite."""


class Heartbeat:
    """Writes progress and checks for stop requests. `record` is None on every rank but the first.

    `num_epochs`: of all steps. `loss` returns the newest training loss that is known, or None. `phase`: what
    the run does now.
    """

    def __init__(
        self,
        record: RecordWriter | None,
        stop: StopFlag,
        meter: Meter,
        total_steps: int,
        images_per_step: int,
        num_epochs: int = 1,
        loss: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._record, self._stop, self._meter = record, stop, meter
        self._total_steps, self._images_per_step = total_steps, images_per_step
        self._num_epochs = num_epochs
        self._loss, self.phase = loss, PHASES[0]
        self._beat_at = self._logged_at = time.monotonic()
        self._must_leave = False
        self._background = None if record is None else Background("heartbeat")

    def beat(self, step: int) -> None:
        """Write progress after `step` steps to the status file, and check the run folder for a stop request.

        The request is a newer start of this run, which waits for this process to leave, or that of a study.
        """
        self._beat_at = time.monotonic()
        if self._record is not None:
            self._look_and_write(self._record, self._progress(step))

    def _progress(self, step: int) -> dict[str, Any]:
        known = {"images_per_s": self._meter.images_per_s(self._images_per_step), "loss": self._loss()}
        now = {name: value for name, value in known.items() if value is not None}
        return {"step": step, "total_steps": self._total_steps, "phase": self.phase, **now}

    def _epoch(self, step: int) -> int:
        """Return the epoch, from 1, in which this rank is after `step` steps."""
        whole = step * self._num_epochs // self._total_steps
        return min(whole + (self.phase == PHASES[0]), self._num_epochs)

    def _log(self, progress: dict[str, Any]) -> None:
        """Log progress, unless a line was logged a short while ago."""
        now = time.monotonic()
        if now - self._logged_at > LOG_EVERY_S:
            self._logged_at = now
            parts = [f"step {progress['step']} of {self._total_steps}: {self.phase}"]
            parts += [f"loss {progress['loss']:.4g}"] if "loss" in progress else []
            parts += [f"{progress['images_per_s']:,.0f} images/s"] if "images_per_s" in progress else []
            log.info("%s", ", ".join(parts))

    def _look_and_write(self, record: RecordWriter, progress: dict[str, Any]) -> None:
        self._must_leave = record.is_claimed() or record.stop_request() is not None
        record.progress(**progress)

    def wish(self, step: int) -> Next:
        """Return what this rank alone would do now. Begins to beat when the last time is long ago.

        Files are read and written on a thread: the folder may be slow. Raises its errors.
        """
        goes_on(self._epoch(step), step, self.phase)
        if self._record is not None and self._background is not None and self._background.check():
            now = time.monotonic()
            if now - self._beat_at > EVERY_S:
                self._beat_at = now
                self._log(progress := self._progress(step))
                self._background.begin(partial(self._look_and_write, self._record, progress))
        if self._stop.warned:
            return Next.STOP_WARNED
        return Next.STOP if self._stop.signal or self._must_leave else Next.CONTINUE

    def close(self) -> None:
        """Wait for the thread, before another status is written."""
        if self._background is not None:
            self._background.close()
