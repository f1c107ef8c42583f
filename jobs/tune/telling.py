"""What a study's driver shows, and knows, of the trials under way."""

from pathlib import Path
from typing import Any

from ray import tune

from jobs.local.progress import ProgressView
from jobs.tune.engine import DriverOnly
from jobs.tune.halt import Halt
from jobs.tune.study import Study
from jobs.tune.trial import run_of
from suite.paths import RunPaths
from suite.record import read_request, read_status


class Telling(DriverOnly, tune.Callback):  # type: ignore[misc]
    """Follows trials from their start to their end. Those of `known` runs are only read, and not shown."""

    def __init__(
        self, study: Study, output_dir: Path, known: set[str], halt: Halt, view: ProgressView
    ) -> None:
        self.study, self.output_dir, self.known, self.halt, self.view = study, output_dir, known, halt, view
        self.started: set[Path] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Its process, or job, is about to begin."""
        run_id, folder = trial.config["run_id"], self.output_dir / trial.config["folder"]
        if run_id in self.known:
            return
        self.halt.under_way[run_id] = folder
        if folder not in self.started:
            self.started.add(folder)
            self.view.started(folder, run_of(self.study, trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """An epoch is over."""
        folder = self.output_dir / trial.config["folder"]
        if folder in self.started:
            self.view.update(folder, RunPaths(folder))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """It has ended, or was told to."""
        folder = self.output_dir / trial.config["folder"]
        if self.halt.under_way.pop(trial.config["run_id"], None) is None:
            return
        request, status = read_request(RunPaths(folder)), read_status(RunPaths(folder))
        if request is not None:
            self.view.ended(folder, request.state, request.reason)
        else:
            self.view.ended(folder, status.state, status.reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The process that followed it was killed. Its run is taken up by another one, or left resumable."""
        self.on_trial_complete(iteration, trials, trial)
