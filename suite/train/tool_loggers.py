"""The tools of `LOGGERS`: TensorBoard, Weights & Biases and MLflow, each a `RunLogger` of `loggers`."""

import importlib
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from suite.errors import Preempted
from suite.experiment import Run

PROJECT = "shiftbench"
WANDB_STEP = "optimizer_step"
MLFLOW_MAX_PARAMETERS = 100  # in one request


class TensorBoardLogger:
    """Event files in the run's folder: `tensorboard --logdir runs` shows all runs."""

    id = "tensorboard"

    def __init__(self, run: Run, folder: Path, former: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / self.id))
        if former is None:
            text = yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            self._writer.add_text("config", f"```yaml\n{text}```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()  # what has been given must outlast a kill

    def close(self, error: BaseException | None) -> None:
        """Write what is left."""
        self._writer.close()


class WandbLogger:
    """A run of Weights & Biases, in the run's folder; `WANDB_MODE=online` sends it to the server at once."""

    def __init__(self, run: Run, folder: Path, former: str | None) -> None:
        wandb: Any = importlib.import_module("wandb")  # its types would be those of the installed version
        # The same run in another folder is another one there.
        self.id = former or f"{run.run_id}-{secrets.token_hex(3)}"
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            name=run.label,
            group=run.experiment,
            config=run.model_dump(mode="json"),
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            reinit="create_new",  # one process may train several runs
            settings=wandb.Settings(console="off"),  # the run's log is its own
        )
        # Its own steps only grow, so that a resumed run could add nothing at its checkpoint's step.
        self._run.define_metric("*", step_metric=WANDB_STEP)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add a row."""
        self._run.log({**values, WANDB_STEP: step})

    def close(self, error: BaseException | None) -> None:
        """Write what is left, and wait for the server if there is one."""
        self._run.finish(exit_code=0 if error is None else 1)


class MlflowLogger:
    """A run of MLflow, in `MLFLOW_TRACKING_URI`, else in the folder `mlruns` beside the runs."""

    def __init__(self, run: Run, folder: Path, former: str | None) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for this
            uri = (folder.absolute().parent / "mlruns").as_uri()
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=uri)
        if former is not None and self._resumes(former):
            self.id = former
            return
        experiment = self._experiment(run.experiment or PROJECT)
        tags = {"shiftbench.run_id": run.run_id}
        self.id = self._client.create_run(experiment, run_name=run.label, tags=tags).info.run_id
        given = [Param(name, str(value)) for name, value in _flat(run.model_dump(mode="json")).items()]
        for first in range(0, len(given), MLFLOW_MAX_PARAMETERS):
            self._client.log_batch(self.id, params=given[first : first + MLFLOW_MAX_PARAMETERS])

    def _resumes(self, former: str) -> bool:
        """Go on with a run; False where there is none, as in another store than before."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(former, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which another run may be creating now."""
        from mlflow.exceptions import MlflowException

        if (found := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name))
            except (MlflowException, OSError):  # from the server, or from a folder of files
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add metrics, in one request."""
        from mlflow.entities import Metric

        now_ms = round(time.time() * 1000)
        metrics = [Metric(_as_file(name), value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, error: BaseException | None) -> None:
        """Mark the run as finished, failed, or stopped."""
        was_stopped = isinstance(error, Preempted)
        status = "FINISHED" if error is None else "KILLED" if was_stopped else "FAILED"
        self._client.set_terminated(self.id, status=status)


def _as_file(name: str) -> str:
    """Return a name that MLflow's folder can hold beside others: a file cannot be a folder of layers, too."""
    split, _, rest = name.partition("/")
    metric, _, layer = rest.partition("/")
    return f"{split}/{metric}_by_layer/{layer}" if layer else name


def _flat(content: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= _flat(value, f"{inside}{name}.") if isinstance(value, dict) else {f"{inside}{name}": value}
    return found
