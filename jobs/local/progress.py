"""Shows the progress of runs: bars on a terminal, plain lines elsewhere."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from suite.experiment import Run
from suite.files import read_json
from suite.paths import RunPaths
from suite.record.shapes import fault_in
from suite.record.status import SHAPES
from suite.specs.task_table import ACCURACIES, accuracy_in

_SHOWN = {"evaluated_epoch": SHAPES["evaluated_epoch"].required(), **{n: SHAPES[n] for n in ACCURACIES}}


class ProgressView:
    """Follows runs by their status files."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._tasks: dict[Path, TaskID] = {}
        self._labels: dict[Path, tuple[str, int]] = {}
        self._epochs: dict[Path, int] = {}
        self._bars = Progress(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs")),
            *(TextColumn("{task.fields[accuracy]}"), TimeElapsedColumn()),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def start(self, total: int, skipped: int) -> None:
        """Print how many runs there are, and how many of them are complete."""
        done = f", {skipped} of them complete already" if skipped else ""
        self._print(f"{total} run{'s'[: total != 1]}{done}")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bars.disable:
            self._bars.stop()

    def started(self, folder: Path, run: Run, label: str | None = None) -> None:
        """Show a run whose process was started. `label` replaces the run's own."""
        label, epochs = label or run.label, run.num_epochs
        self._labels[folder] = (label, epochs)
        self._tasks[folder] = self._bars.add_task(label, total=epochs, accuracy="")
        if self._bars.disable:
            self._print(f"started   {label}")

    def refused(self, run: Run, reason: str) -> None:
        """Print why a run could not be started."""
        self._print(f"{'failed':<9} {run.label}: {reason}")

    def update(self, folder: Path, paths: RunPaths) -> None:
        """Read a run's status file; move the bar on a terminal, print a line for each new epoch elsewhere."""
        status: Any = None
        with suppress(OSError):
            status = read_json(paths.status)
        if fault_in(status, _SHOWN):  # not written yet: the process is still importing
            return
        epoch, accuracy = status["evaluated_epoch"], accuracy_in(status)
        if epoch is None or not accuracy or self._epochs.get(folder) == epoch:
            return
        self._epochs[folder] = epoch
        label, epochs = self._labels[folder]
        self._bars.update(self._tasks[folder], completed=epoch, accuracy=accuracy)
        if self._bars.disable:
            self._print(f"epoch {epoch}/{epochs}  {label}  {accuracy}")

    def ended(self, folder: Path, state: str, reason: str | None) -> None:
        """Print how a run ended."""
        self._bars.remove_task(self._tasks.pop(folder))
        self._print(f"{state:<9} {self._labels[folder][0]}" + (f": {reason}" if reason else ""))

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)
