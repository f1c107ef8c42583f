"""`shiftbench reproduce D`: noise on the estimates of trained runs, measured once, and when it must."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.local.fork_client import starter_of
from jobs.local.process import PlainProcess, ProcessSpec, StartProcess
from jobs.reproduce import claim_experiments
from jobs.trained.noise import NoisePlan, measure_missing
from reports.claims import load_registration
from reports.claims.registration import NoiseSpec
from suite.config import load_experiment
from suite.paths import RunPaths
from suite.record import read_noise
from tests.helpers.reproducing import CARRIED, CLAIMS, TINY_NET, carried_data, reported, reproduce, tiny

__all__ = ["carried_data", "reported", "tiny"]  # fixtures


# ---------------------------------------------------------------- noise


@pytest.mark.usefixtures("tiny", "reported")
def test_noise_is_measured_once_and_again_where_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server: Path
) -> None:
    start = starter_of(fork_server)
    noise = NoiseSpec(magnitudes=(0.5,), draws=2, images=32)
    registered = load_registration()
    content = registered.content.model_copy(update={"noise": noise})
    changed = dataclasses.replace(registered, content=content)
    monkeypatch.setattr("reports.claims.load_registration", lambda: changed)
    done = reproduce(tmp_path, "D", "--quick")
    assert done.exit_code == 0, done.stdout
    assert done.stdout.count("noise  ") == 2
    assert "D: inconclusive" in done.stdout
    path = claim_experiments.FOLDER / CLAIMS["D"].experiment
    runs = list(load_experiment(path, ["seeds=[0]", *CARRIED, *TINY_NET]).runs)
    of_bn, of_xbn = (RunPaths(tmp_path / "runs" / run.folder_name) for run in runs)
    first, xbn = read_noise(of_bn), read_noise(of_xbn)
    assert first is not None
    assert xbn is not None
    for record in first.values():
        assert record.deltas == (0.0, 0.5)
        assert [len(draws) for draws in record.top1_percent] == [2, 2]
        assert len(set(record.top1_percent[0])) == 1  # no noise, no difference between draws
        assert record.num_images == 32
        assert record.norms == ("BN", "XBN-P2-GN8")
    # XBN has GN in the stem and at P2 of three blocks; what is left, both have.
    assert set(first["all"].layers) - set(first["common"].layers) == {
        "bn1", *(f"layer{stage}.0.bn2" for stage in (1, 2, 3)),
    }  # fmt: skip
    assert first["common"].layers == xbn["common"].layers == xbn["all"].layers
    assert xbn["all"] == xbn["common"]
    assert first["all"].top1_percent != first["common"].top1_percent

    plan = NoisePlan((0.0, 0.5), 2, 32, tuple(run.model.norm for run in runs))

    def measured(start: StartProcess = start) -> list[str | None]:
        return [error for _, error in measure_missing(runs, plan, tmp_path / "runs", 1, start)]

    def start_nothing(spec: ProcessSpec) -> PlainProcess:
        spec.log.touch()
        return SimpleNamespace(poll=lambda: 0)  # type: ignore[return-value]

    assert measured() == []
    content = json.loads(of_bn.noise.read_text())
    content["scopes"]["common"]["step"] = 99
    for damaged in ("{", json.dumps(content), json.dumps({**content, "schema_version": 1})):
        of_bn.noise.write_text(damaged)
        assert measured(start_nothing) == [None]
    assert measured() == [None]
    assert read_noise(of_bn) == first
    # Other norms have other common layers.
    alone_plan, plan = plan, dataclasses.replace(plan, norms=plan.norms[:1])
    assert measured(start_nothing) == [None, None]
    plan = dataclasses.replace(alone_plan, draws=3)
    assert measured(start_nothing) == [None, None]
    # Several at a time, of one thread each: the same.
    plan = dataclasses.replace(plan, deltas=(0.0, 0.1))
    assert measured() == [None, None]
    alone = read_noise(of_bn)
    of_bn.noise.unlink()
    both = measure_missing([*runs, *runs], plan, tmp_path / "runs", 2, start)
    assert [trouble for _, trouble in both] == [None, None]
    assert read_noise(of_bn) == alone
    for step in of_bn.checkpoint_steps():
        of_bn.checkpoint(step).unlink()
    of_bn.noise.unlink()
    assert "has no checkpoint to measure" in str(measured()[0])
    failed = reproduce(tmp_path, "D", "--quick")
    assert failed.exit_code == 3
    assert "has no checkpoint to measure" in failed.stdout
