"""The logger of MLflow, in a folder."""

from pathlib import Path

import pytest

from suite.errors import Preempted
from suite.train.loggers import MlflowLogger
from tests.helpers.runs import make_run


def test_a_resumed_run_is_one_run_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = make_run(system={"loggers": ["mlflow"]})
    for step, top1 in ((4, 48.5), (8, 61.25)):
        logger = MlflowLogger(run, tmp_path / "runs" / run.folder_name, step)
        logger.log({"val/top1_percent": top1, "epoch": step // 4}, step)
        logger.close(None)
    client = MlflowClient(tracking_uri=(tmp_path / "runs" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("results")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "val/top1_percent")
    assert [(one.step, one.value) for one in history] == [(4, 48.5), (8, 61.25)]
    assert found.data.params["batch.global_batch_size"] == "16"
    assert found.info.status == "FINISHED"
    for error, status in ((Preempted("stopped after step 8"), "KILLED"), (ValueError(), "FAILED")):
        MlflowLogger(run, tmp_path / "runs" / run.folder_name, 8).close(error)
        (found,) = client.search_runs([experiment.experiment_id])
        assert found.info.status == status
