"""Shows the progress of a study's trials."""

from pathlib import Path
from typing import Any

from ray import tune

from jobs.local.progress import ProgressView
from jobs.tune.engine import DriverOnly
from jobs.tune.trial import run_of
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import UNFINISHED, read_status, read_stop_request
from suite.studies.axes import Point
from suite.studies.study import Study


class ProgressCallback(DriverOnly, tune.Callback):  # type: ignore[misc]
    """Shows trials from their start to their end, but for those of `known` runs, which are only read."""

    def __init__(self, study: Study, output_dir: Path, known: set[str], view: ProgressView) -> None:
        self.study, self.output_dir, self.known, self.view = study, output_dir, known, view
        self._under_way: set[Path] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Shows a trial whose process or job is about to start."""
        run_id, folder = trial.config["run_id"], self.output_dir / trial.config["folder"]
        if run_id in self.known:
            return
        if folder not in self._under_way:
            self._under_way.add(folder)
            run = run_of(self.study, trial.config)
            self.view.started(folder, run, label_of(run, trial.config["point"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Shows the end of an epoch."""
        folder = self.output_dir / trial.config["folder"]
        if folder in self._under_way:
            self.view.update(folder, RunPaths(folder))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Shows how a trial ended, or that it was asked to stop."""
        folder = self.output_dir / trial.config["folder"]
        if folder not in self._under_way:
            return
        self._under_way.discard(folder)
        request, status = read_stop_request(RunPaths(folder)), read_status(RunPaths(folder))
        is_ending = request is not None and status.state in UNFINISHED
        if status.is_missing:  # the study was stopped before this run began
            return
        if request is not None and is_ending:
            self.view.ended(folder, request.state, request.reason)
        else:
            self.view.ended(folder, status.state, status.reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Shows a trial whose worker was killed. Another worker continues its run, or it stays resumable."""
        self.on_trial_complete(iteration, trials, trial)


# Fields that a run's own label shows.
LABELLED = ("model.arch", "model.norm", "batch.norm_batch_size")


def label_of(run: Run, point: Point) -> str:
    """`small_resnet11 BN nb2 seed 0 lr=0.1`: a run's label with the study's other axes."""
    axes = {
        key: value
        for key, value in point.items()
        if not f"{key}.".startswith(tuple(f"{name}." for name in LABELLED))
    }
    return " ".join(
        [run.label, *(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in axes.items())]
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
