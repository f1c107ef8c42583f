"""Shows the progress of runs: bars on a terminal, plain lines elsewhere."""

import json
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from suite.experiment import Run
from suite.paths import RunPaths


class ProgressView:
    """Follows runs by their status files."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Progress | None = None
        self._tasks: dict[Path, TaskID] = {}
        self._labels: dict[Path, tuple[str, int]] = {}
        self._epochs: dict[Path, int] = {}
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("epochs"),
            )
            self._bars = Progress(
                *columns,
                TextColumn("{task.fields[top1]}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )

    def start(self, total: int, skipped: int) -> None:
        """Print how many runs there are, and how many of them are complete."""
        done = f", {skipped} of them complete already" if skipped else ""
        self.console.print(f"{total} run{'s'[: total != 1]}{done}", highlight=False)

    def __enter__(self) -> "ProgressView":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def started(self, folder: Path, run: Run, label: str | None = None) -> None:
        """Show a run whose process was started. `label` replaces the run's own."""
        label = label or run.label
        self._labels[folder] = (label, run.recipe.epochs)
        if self._bars is not None:
            self._tasks[folder] = self._bars.add_task(label, total=run.recipe.epochs, top1="")
        else:
            self.console.print(f"started   {label}", highlight=False, markup=False)

    def refused(self, run: Run, reason: str) -> None:
        """Print why a run could not be started."""
        self.console.print(f"{'failed':<9} {run.label}: {reason}", highlight=False, markup=False)

    def update(self, folder: Path, paths: RunPaths) -> None:
        """Read a run's status file; move the bar on a terminal, print a line for each new epoch elsewhere."""
        try:
            status = json.loads(paths.status.read_text())
        except (OSError, json.JSONDecodeError):
            return  # not written yet: the process is still importing
        epoch, top1 = status.get("evaluated_epoch"), status.get("top1_percent")
        if epoch is None or top1 is None or self._epochs.get(folder) == epoch:
            return
        self._epochs[folder] = epoch
        label, epochs = self._labels[folder]
        if self._bars is not None:
            self._bars.update(self._tasks[folder], completed=epoch, top1=f"top-1 {top1:.1f} %")
        else:
            self.console.print(f"epoch {epoch}/{epochs}  {label}  top-1 {top1:.1f} %", highlight=False)

    def ended(self, folder: Path, state: str, reason: str | None) -> None:
        """Print how a run ended."""
        label, _ = self._labels[folder]
        if self._bars is not None:
            self._bars.remove_task(self._tasks.pop(folder))
        because = f": {reason}" if reason else ""
        self.console.print(f"{state:<9} {label}{because}", highlight=False, markup=False)
