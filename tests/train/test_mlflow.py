"""The logger of MLflow, in a folder."""

from pathlib import Path

import pytest

from suite.errors import Preempted
from suite.train.loggers import Loggers
from suite.train.tool_loggers import MlflowLogger
from tests.helpers.runs import make_run


def test_a_resumed_run_is_one_run_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = make_run(system={"loggers": ["mlflow"]})
    folder = tmp_path / "runs" / run.folder_name
    folder.mkdir(parents=True)

    def attempt(*steps: int) -> None:
        loggers = Loggers(run, folder)
        for step in steps:
            values = {"val/esm_sigma": step / 2, "val/esm_sigma/layer1.0.bn1": 0.25}
            loggers.log(values, epoch=step // 4, step=step)
        loggers.close(None)

    attempt(4, 8)
    attempt(8, 12)  # from the checkpoint at step 4 on
    client = MlflowClient(tracking_uri=(tmp_path / "runs" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("results")
    (found,) = client.search_runs([experiment.experiment_id])

    def history(name: str) -> list[tuple[int, float]]:
        return [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, name)]

    assert history("val/esm_sigma") == [(4, 2.0), (8, 4.0), (12, 6.0)]
    assert history("val/esm_sigma_by_layer/layer1.0.bn1") == [(4, 0.25), (8, 0.25), (12, 0.25)]
    assert history("epoch") == [(4, 1), (8, 2), (12, 3)]
    assert found.data.params["batch.global_batch_size"] == "16"
    assert found.info.status == "FINISHED"
    for error, status in ((Preempted("stopped after step 8"), "KILLED"), (ValueError(), "FAILED")):
        MlflowLogger(run, folder, found.info.run_id).close(error)
        assert client.get_run(found.info.run_id).info.status == status
    # In another store there is no such run, and what it lacks is not known.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    elsewhere = MlflowLogger(run, folder, found.info.run_id)
    assert elsewhere.id != found.info.run_id
