"""The launcher: what it does when its processes end otherwise than well, and with several ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import jobs.local.process
from jobs.local.child import environment_of
from jobs.local.fork_client import SERVER_VARIABLE
from jobs.local.launcher import run_all
from jobs.local.process import THREADS, PlainProcess, ProcessSpec
from jobs.local.progress import ProgressView
from jobs.local.stop import Stop
from jobs.outcome import LaunchOutcome
from suite.config import load_experiment
from suite.experiment import Run
from suite.signals import stop_signals_to
from tests.helpers.small_experiment import CONFIG, ROOT
from tests.helpers.stand_in import stand_in


@pytest.mark.parametrize(
    ("codes", "stopped_by", "expected"),
    [
        ([], None, 0),
        ([2, 2], None, 2),
        ([2, 1], None, 3),
        ([3], None, 3),
        ([1], None, 3),
        ([75], None, 75),
        ([75, 75], signal.SIGTERM, 75),
        ([75], signal.SIGINT, 130),
    ],
)
def test_exit_codes(codes: list[int], stopped_by: signal.Signals | None, expected: int) -> None:
    outcome = LaunchOutcome(failed=[(Path(), code) for code in codes], stopped_by=stopped_by)
    assert outcome.exit_code == expected


def launch(folder: Path, *extra: str, **variables: str) -> "subprocess.Popen[str]":
    (folder / "tiny.yaml").write_text(CONFIG)
    arguments = ["run", folder / "tiny.yaml", "--output-dir", folder / "runs", *extra]
    command, env = [sys.executable, "-m", "jobs.cli", *map(str, arguments)], {**os.environ, **variables}
    out, err = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=err, text=True)


def status_of(folder: Path, at_step: int = 0) -> dict[str, object]:
    """The only run's status, waited for until the run has taken so many steps."""
    deadline = time.monotonic() + 150
    while True:
        for path in (folder / "runs").glob("*/status.json"):
            content: dict[str, object] = json.loads(path.read_text())
            if int(str(content.get("step") or 0)) >= at_step:
                return content
        assert time.monotonic() < deadline, f"no run has reached step {at_step}"
        time.sleep(0.05)


@pytest.mark.usefixtures("fork_server")
def test_two_ranks_share_statistics_and_complete(tmp_path: Path) -> None:
    process = launch(tmp_path, "--ranks", "2")
    output, _ = process.communicate(timeout=250)
    log = "\n".join(path.read_text() for path in (tmp_path / "runs").glob("*/log.txt"))
    assert process.returncode == 0, output + log
    (folder,) = (tmp_path / "runs").iterdir()
    provenance = json.loads((folder / "provenance.jsonl").read_text())
    assert provenance["world_size"] == 2
    lines = [json.loads(line) for line in (folder / "measurements.jsonl").read_text().splitlines()]
    counted = [line["value"] for line in lines if line["metric"] == "images_evaluated"]
    assert counted == [41]


ONE_RANK = ("batch.norm_batch_size=8", "recipe.epochs=200")


@pytest.fixture(params=["fresh", "forked"])
def trainer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables for runs that train in forks of the session's server, or are stand-ins in fresh processes."""
    if request.param == "forked":
        request.getfixturevalue("fork_server")
        return {}
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    return stand_in(step_s=0.05)


def test_a_killed_process_is_a_failed_run_with_its_signal(trainer: dict[str, str], tmp_path: Path) -> None:
    process = launch(tmp_path, *ONE_RANK, **trainer)
    os.kill(int(str(status_of(tmp_path)["pid"])), signal.SIGKILL)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 3, output
    status = status_of(tmp_path)
    assert status["state"] == "failed"
    assert "was killed by SIGKILL" in str(status["reason"])


def test_ctrl_c_checkpoints_and_ends_with_130(trainer: dict[str, str], tmp_path: Path) -> None:
    process = launch(tmp_path, *ONE_RANK, **trainer)
    status_of(tmp_path, at_step=1)  # before the first step there is nothing to keep
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert status_of(tmp_path)["state"] == "preempted"
    assert list((tmp_path / "runs").glob("*/checkpoints/step-*.pt"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_a_hangup_and_a_schedulers_warning_come_in_good_order(number: signal.Signals) -> None:
    sent: list[signal.Signals] = []
    process = SimpleNamespace(send_signal=sent.append)
    stop = Stop()
    with stop_signals_to(stop.handle):
        for one in (number, number, signal.SIGTERM):
            os.kill(os.getpid(), one)
            stop.forward([process])  # type: ignore[list-item]
        assert sent == [signal.SIGTERM]
        assert LaunchOutcome(stopped_by=stop.first).exit_code == 75
        os.kill(os.getpid(), signal.SIGTERM)
        stop.forward([process])  # type: ignore[list-item]
        assert sent == [signal.SIGTERM, signal.SIGKILL]


def test_what_nohup_ignores_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Stop()
        with stop_signals_to(stop.handle):
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.first is None
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_killed_launcher_leaves_a_checkpoint_and_no_process(
    trainer: dict[str, str], tmp_path: Path
) -> None:
    process = launch(tmp_path, *ONE_RANK, **trainer)
    pid = int(str(status_of(tmp_path, at_step=1)["pid"]))
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 100
    while status_of(tmp_path)["state"] == "running":
        assert time.monotonic() < deadline, "it trains on"
        time.sleep(0.1)
    assert status_of(tmp_path)["state"] == "preempted"
    assert list((tmp_path / "runs").glob("*/checkpoints/step-*.pt"))
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "it has not ended"
        time.sleep(0.1)


class Sleeping(PlainProcess):
    """A process that only waits; the second run's cannot be started."""

    def __init__(self, spec: ProcessSpec) -> None:
        if "-s1-" in spec.arguments[-1]:
            raise OSError(11, "no process can be had")
        subprocess.Popen.__init__(self, ["sleep", "100"], start_new_session=True)


def two_runs(folder: Path) -> list[Run]:
    (folder / "tiny.yaml").write_text(CONFIG)
    return list(load_experiment(folder / "tiny.yaml", ["batch.norm_batch_size=8", "seeds=[0, 1]"]).runs)


def test_cores_are_shared_out_where_nobody_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, other = two_runs(tmp_path)
    assert chosen.system.torch_threads == 1
    run = other.model_copy(update={"system": other.system.model_copy(update={"torch_threads": None})})
    monkeypatch.setenv(THREADS, "7")
    assert environment_of([run, run], 3, {"A": "b"})[THREADS] == "7"
    monkeypatch.delenv(THREADS)
    given = environment_of([run, run], 3, {"A": "b"})
    assert (given[THREADS], given["A"]) == ("3", "b")
    assert THREADS not in environment_of([run, chosen], 3, {})


def test_a_start_that_fails_is_a_failed_run_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = two_runs(tmp_path)
    monkeypatch.setattr(ProgressView, "update", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    outcome = run_all(runs, tmp_path / "runs", 2, 1, ProgressView(Console(width=200)), Sleeping)
    assert [code for _, code in outcome.failed] == [1, 75]
    printed = capsys.readouterr().out
    assert "no process can be had" in printed
    assert "its process was killed by SIGTERM before it could train" in printed


def test_an_error_in_the_launcher_ends_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = two_runs(tmp_path)
    ended: list[PlainProcess] = []

    def fail(view: ProgressView, folder: Path, paths: object) -> None:
        raise ZeroDivisionError

    end = jobs.local.process.end
    monkeypatch.setattr("jobs.local.launcher.end", lambda running: [ended.extend(running), end(running)])
    monkeypatch.setattr(ProgressView, "update", fail)
    with pytest.raises(ZeroDivisionError):
        run_all(runs, tmp_path / "runs", 2, 1, ProgressView(Console()), Sleeping)
    assert [process.returncode for process in ended] == [-signal.SIGTERM]


def test_a_second_ctrl_c_ends_at_once_and_leaves_no_process(trainer: dict[str, str], tmp_path: Path) -> None:
    process = launch(tmp_path, *ONE_RANK, **trainer)
    pid = int(str(status_of(tmp_path)["pid"]))
    os.kill(pid, signal.SIGSTOP)  # a run that does not answer
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert status_of(tmp_path)["state"] == "failed"
