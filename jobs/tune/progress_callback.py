"""Shows the progress of a study's trials."""

from pathlib import Path
from typing import Any

from ray import tune

from jobs.local.launches import Launch
from jobs.local.progress import ProgressView
from jobs.tune.engine import DriverOnly
from jobs.tune.trial import run_of
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import UNFINISHED, read_status, read_stop_request
from suite.studies.space import Point
from suite.studies.study import Study

# Fields that a run's own label shows.
LABELLED = ("model.arch.", "model.norm.", "batch.norm_batch_size.")


class ProgressCallback(DriverOnly, tune.Callback):  # type: ignore[misc]
    """Shows trials from their start to their end, but for those of `known` runs, which are only read."""

    def __init__(
        self, study: Study, output_dir: Path, known: set[str], view: ProgressView, launch: Launch
    ) -> None:
        self.study, self.output_dir, self.known, self.view = study, output_dir, known, view
        self.launch = launch
        self._under_way: set[Path] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Show a trial whose process or job is about to start."""
        folder = self.output_dir / trial.config["folder"]
        if trial.config["run_id"] not in self.known and folder not in self._under_way:
            self._under_way.add(folder)
            self.launch.started(folder)
            run = run_of(self.study, trial.config)
            self.view.started(folder, run, label_of(run, trial.config["point"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Show the end of an epoch."""
        folder = self.output_dir / trial.config["folder"]
        if folder in self._under_way:
            self.view.update(folder, RunPaths(folder))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Show how a trial ended, or that it was asked to stop."""
        folder = self.output_dir / trial.config["folder"]
        if folder not in self._under_way:
            return
        self._under_way.discard(folder)
        request, status = read_stop_request(RunPaths(folder)), read_status(RunPaths(folder))
        end = request if request is not None and status.state in UNFINISHED else status
        if not status.is_missing:  # else the study was stopped before this run began
            self.view.ended(folder, end.state, end.reason)

    # A trial whose worker was killed: another worker continues its run, or it stays resumable.
    on_trial_error = on_trial_complete


def label_of(run: Run, point: Point) -> str:
    """`small_resnet11 BN nb2 seed 0 lr=0.1`: a run's label with the study's other axes."""
    label = run.label
    for key, value in point.items():
        if not f"{key}.".startswith(LABELLED):
            label += f" {key.rpartition('.')[2]}={f'{value:.4g}' if isinstance(value, float) else value}"
    return label
