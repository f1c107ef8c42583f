"""Copies of a run's measurements for the tools that show experiments. The record does not depend on them."""

import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from suite.errors import Preempted, UserError
from suite.experiment import Run
from suite.specs.choice import resolve
from suite.specs.process import LOGGERS

PROJECT = "shiftbench"

log = logging.getLogger("shiftbench")


class RunLogger(Protocol):
    """A tool's copy of one run: `LOGGERS` names each class, called with (run, folder, step).

    `step`: the optimizer step from which training goes on.
    """

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add values by name, such as `val/top1_percent`, after an optimizer step."""

    def close(self, error: BaseException | None) -> None:
        """Write what is left, and end. `error`: what ended the run, if anything did."""


class Loggers:
    """All loggers of a run. One that fails is left out from then on, with its error in the run's log."""

    def __init__(self, run: Run, folder: Path, step: int) -> None:
        """Open those that `system.loggers` names. Raises UserError for one that is not installed."""
        self._open: dict[str, RunLogger] = {}
        for name in run.system.loggers:
            entry = LOGGERS[name]
            try:
                self._open[name] = resolve(entry.logger)(run, folder, step)
            except ModuleNotFoundError as error:
                raise UserError(f"system.loggers: {name}: {error}; {entry.install}") from None
            except Exception as error:
                self._leave_out(name, error)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Give values by name to each logger."""
        for name, logger in list(self._open.items()):
            try:
                logger.log(values, step)
            except Exception as error:
                self._leave_out(name, error)

    def close(self, error: BaseException | None) -> None:
        """End all loggers. `error`: what ended the run, if anything did."""
        for name, logger in list(self._open.items()):
            try:
                logger.close(error)
            except Exception as failure:
                self._leave_out(name, failure)

    def _leave_out(self, name: str, error: Exception) -> None:
        """A tool's server that is down must not end days of training: the record has everything."""
        self._open.pop(name, None)
        log.error("system.loggers: %s gets no more values: %s: %s", name, type(error).__name__, error)


class TensorBoardLogger:
    """Event files in the run's folder: `tensorboard --logdir runs` shows all runs."""

    def __init__(self, run: Run, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier attempt wrote behind the checkpoint is hidden, but not what it wrote at the
        # checkpoint's own step: that was before it, and is not written again.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        text = yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self._writer.add_text("config", f"```yaml\n{text}```", global_step=step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)

    def close(self, error: BaseException | None) -> None:
        """Write what is left."""
        self._writer.close()


class WandbLogger:
    """A run of Weights & Biases, in the run's folder; `WANDB_MODE=online` sends it to the server at once."""

    def __init__(self, run: Run, folder: Path, step: int) -> None:
        wandb: Any = importlib.import_module("wandb")  # its types would be those of the installed version
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.run_id,
            name=run.label,
            group=run.experiment,
            config=run.model_dump(mode="json"),
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            reinit="create_new",  # one process may train several runs
            settings=wandb.Settings(console="off"),  # the run's log is its own
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add a row."""
        self._run.log(dict(values), step=step)

    def close(self, error: BaseException | None) -> None:
        """Write what is left, and wait for the server if there is one."""
        self._run.finish(exit_code=0 if error is None else 1)


class MlflowLogger:
    """A run of MLflow, in `MLFLOW_TRACKING_URI`, else in the folder `mlruns` beside the runs."""

    def __init__(self, run: Run, folder: Path, step: int) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for this
            uri = (folder.absolute().parent / "mlruns").as_uri()
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=uri)
        experiment = self._experiment(run.experiment or PROJECT)
        former = self._client.search_runs([experiment], f"tags.`shiftbench.run_id` = '{run.run_id}'")
        if former:
            self._id = former[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {"shiftbench.run_id": run.run_id}
        self._id = self._client.create_run(experiment, run_name=run.label, tags=tags).info.run_id
        for name, value in _flat(run.model_dump(mode="json")).items():
            self._client.log_param(self._id, name, value)

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which another run may be creating now."""
        if (found := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add metrics."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self, error: BaseException | None) -> None:
        """Mark the run as finished, failed, or stopped."""
        was_stopped = isinstance(error, Preempted)
        status = "FINISHED" if error is None else "KILLED" if was_stopped else "FAILED"
        self._client.set_terminated(self._id, status=status)


def _flat(content: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= _flat(value, f"{inside}{name}.") if isinstance(value, dict) else {f"{inside}{name}": value}
    return found
