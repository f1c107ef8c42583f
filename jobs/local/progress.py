"""Shows the progress of runs by their status files: bars on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.live import Live

from jobs.local.progress_bars import Bars
from suite.experiment import Run
from suite.files import read_json
from suite.paths import RunPaths
from suite.record import time_left_s
from suite.record.shapes import fault_in
from suite.record.status import SHAPES
from suite.specs.task_table import ACCURACIES, accuracy_in

SILENCE_S = 15.0
"""Without a terminal, a line is printed after so many seconds without one."""
_SHOWN = ("state", "phase", "epoch", "evaluated_epoch", "step", "total_steps", "resumed_from_step", "loss")
_TIMES = ("updated_at", "started_at", "images_per_s", *ACCURACIES)
_SHAPES = {name: SHAPES[name].optional() for name in (*_SHOWN, *_TIMES)}


@dataclass
class Shown:
    """A run whose process was started, and what its status file says; empty until it says anything."""

    paths: RunPaths
    label: str
    epochs: int
    began: float = field(default_factory=time.time)
    status: dict[str, Any] = field(default_factory=dict)
    printed_epoch: int | None = None
    printed_at: float = 0.0

    def read(self) -> None:
        """Read the status file, unless it is of an earlier attempt: then the process is still importing."""
        status: Any = None
        with suppress(OSError):
            status = read_json(self.paths.status)
        if not fault_in(status, _SHAPES) and status.get("updated_at", self.began) >= self.began:
            self.status = status

    @property
    def share(self) -> float:
        """Which part of its steps is done, 0 to 1."""
        step, total = self.status.get("step"), self.status.get("total_steps")
        return min(1.0, step / total) if step and total else 0.0

    @property
    def share_before(self) -> float:
        """Which part of its steps was done when its process began."""
        step, total = self.status.get("resumed_from_step"), self.status.get("total_steps")
        return min(1.0, step / total) if step and total else 0.0

    def facts(self) -> list[str]:
        """Return the phase, loss, speed and time left, as far as they are known."""
        status, left_s = self.status, time_left_s({**self.status, "state": "running"})
        if not status:
            return [f"starting ({duration(time.time() - self.began)})"]
        loss, images_per_s = status.get("loss"), status.get("images_per_s")
        return [
            status.get("phase") or "training",
            *([f"loss {loss:.3g}"] if loss is not None else []),
            *([f"{images_per_s:,.0f} images/s"] if images_per_s is not None else []),
            *([f"{duration(left_s)} left"] if left_s is not None else []),
        ]


class ProgressView:
    """Follows runs by their status files. A context manager, within which it is never silent for long.

    `waits_for`: what is waited for while no run trains, such as "Ray"; short, as a line has 80 columns.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.waits_for = ""
        self._runs: dict[Path, Shown] = {}
        self._total = self._ended = 0
        self._began = self._printed_at = time.monotonic()
        self._live = Live(console=console, transient=True, get_renderable=self._bars, redirect_stderr=False)
        self._is_over = threading.Event()
        self._lock = threading.RLock()  # of what is printed

    def start(self, total: int, skipped: int) -> None:
        """Print how many runs there are, and how many of them are complete."""
        self._total, self._ended = total - skipped, 0
        self._began = time.monotonic()
        done = f", {skipped} of them complete already" if skipped else ""
        self._print(f"{total} run{'s'[: total != 1]}{done}")

    def __enter__(self) -> Self:
        self._is_over.clear()
        if self.console.is_terminal:
            self._live.start()
        else:
            threading.Thread(target=self._break_silences, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._live.is_started:
            self._live.stop()

    def started(self, folder: Path, run: Run, label: str | None = None) -> None:
        """Show a run whose process was started. `label` replaces the run's own."""
        label = label or run.label
        self._runs[folder] = Shown(RunPaths(folder), label, run.num_epochs)
        if not self.console.is_terminal:
            self._print(f"started   {label}")

    def refused(self, run: Run, reason: str) -> None:
        """Print why a run could not be started."""
        self._ended += 1
        self._print(f"{'failed':<9} {run.label}: {reason}")

    def update(self, folder: Path, paths: RunPaths) -> None:
        """Read a run's status file. Without a terminal, print each new epoch."""
        run = self._runs[folder]
        run.read()
        epoch, accuracy = run.status.get("evaluated_epoch"), accuracy_in(run.status)
        if epoch is not None and accuracy and run.printed_epoch != epoch:
            run.printed_epoch = epoch
            if not self.console.is_terminal:
                self._print(f"epoch {epoch}/{run.epochs}  {run.label}  {accuracy}")

    def ended(self, folder: Path, state: str, reason: str | None) -> None:
        """Print how a run ended."""
        run = self._runs.pop(folder)
        self._ended += 1
        self._print(f"{state:<9} {run.label}" + (f": {reason}" if reason else ""))

    def break_silence(self) -> None:
        """Print one line if none was printed for long: on a run that trains, each in its turn."""
        with self._lock:
            if time.monotonic() - self._printed_at <= SILENCE_S:
                return
            runs = list(self._runs.values())
            if not runs:
                taken = duration(time.monotonic() - self._began)
                self._print(f"waiting   for {self.waits_for or 'the first run'} ({taken})")
                return
            run = min(runs, key=lambda one: one.printed_at)
            run.printed_at = time.monotonic()
            run.read()
            step, total = run.status.get("step"), run.status.get("total_steps")
            at = f"step {step}/{total}  " if step is not None and total else ""
            self._print(f"{at}{run.label}  {', '.join(run.facts())}")

    def _break_silences(self) -> None:
        while not self._is_over.wait(1.0):
            self.break_silence()

    def _bars(self) -> Bars:
        runs, taken_s = list(self._runs.values()), time.monotonic() - self._began
        for run in runs:
            run.read()
        done = self._ended + sum(run.share for run in runs)
        gained = done - sum(run.share_before for run in runs)
        facts = [] if runs or not self.waits_for else [f"waiting for {self.waits_for}"]
        if 0.02 * self._total < gained < self._total:  # before that the pace is not known
            facts.append(f"about {duration((self._total - done) * taken_s / gained)} left")
        title = f"{self._ended} of {self._total} runs"
        total = title, done / max(1, self._total), [*facts, f"{duration(taken_s)} so far"]
        return Bars(total, [(run.label, run.share, run.facts()) for run in runs])

    def _print(self, text: str) -> None:
        with self._lock:
            self._printed_at = time.monotonic()
            self.console.print(text, highlight=False, markup=False)


@contextmanager
def busy(console: Console, doing: str) -> Iterator[None]:
    """Show that something takes its time: by a spinner on a terminal, by a line now and then elsewhere."""
    if console.is_terminal:
        with console.status(doing):
            yield
        return
    is_over, began = threading.Event(), time.monotonic()

    def repeat() -> None:
        while not is_over.wait(SILENCE_S):
            taken = duration(time.monotonic() - began)
            console.print(f"{doing} ({taken})", highlight=False, markup=False)

    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def duration(seconds: float) -> str:
    """Format seconds as `42 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
