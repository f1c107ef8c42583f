"""The fork server: its forks equal fresh processes, end like them, and none harms another."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from jobs.local import fork_client
from jobs.local.fork_client import ForkedProcess, is_gone, misfit, own_server, process_starter, starter_of
from jobs.local.fork_server import reason_not_to_fork
from jobs.local.launcher import run_all
from jobs.local.process import PlainProcess, ProcessSpec, StartProcess, end
from jobs.local.progress import ProgressView
from suite.config import load_experiment
from suite.paths import RunPaths
from tests.helpers.small_experiment import CONFIG
from tests.helpers.stand_in import stand_in

STATE = "tests.helpers.process_state"
WITHOUT_TORCH = "from jobs.local import fork_server as f; f.PRELOADED = ()"


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """A server that has imported nothing, and so starts at once."""
    with pytest.MonkeyPatch.context() as patch:
        yield from serving(patch)


def serving(patch: pytest.MonkeyPatch, before: str = "") -> Iterator[Path]:
    patch.setattr(fork_client, "COMMAND", (sys.executable, "-c", f"{WITHOUT_TORCH}\n{before}\nf.main()"))
    with own_server(os.environ) as path:
        patch.undo()
        assert path is not None
        yield path


def spec(folder: Path, command: str, *, ranks: int = 1, **variables: str) -> ProcessSpec:
    arguments = (command, str(folder / "out"))
    return ProcessSpec(STATE, arguments, {**os.environ, **variables}, folder / "log.txt", ranks)


def wait_for(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def started(path: Path, folder: Path, command: str = "wait", ranks: int = 1) -> ForkedProcess:
    """A forked process that runs."""
    folder.mkdir(exist_ok=True)
    process = ForkedProcess(path, spec(folder, command, ranks=ranks))
    wait_for(lambda: process.poll() is not None or all(path.exists() for path in outputs(folder, ranks)))
    return process


def outputs(folder: Path, ranks: int) -> list[Path]:
    return [folder / (f"out{rank}" if ranks > 1 else "out") for rank in range(ranks)]


# ---------------------------------------------------------------- like a fresh process


def test_a_fork_has_the_state_of_a_fresh_process(fork_server: Path, tmp_path: Path) -> None:
    former_mask, former_folder = os.umask(0o037), Path.cwd()
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    states = []
    try:
        for start in (PlainProcess, lambda one: ForkedProcess(fork_server, one)):
            wanted = spec(tmp_path, "state", MINE="\udcffyes", OMP_NUM_THREADS="2", TZ="Asia/Tokyo")
            wanted.environment.pop("HOME", None)  # type: ignore[attr-defined]
            assert start(wanted).wait(120) == 0, wanted.log.read_text()
            states.append(json.loads((tmp_path / "out").read_text()))
            (tmp_path / "out").unlink()
    finally:
        os.umask(former_mask)
        os.chdir(former_folder)
        signal.signal(signal.SIGHUP, former)
    fresh, forked = states
    assert fresh["threads_of_torch"] == 2  # the server has one
    assert fresh["umask"] == 0o037
    assert fresh["environment"]["MINE"] == "\udcffyes"
    assert forked == fresh
    assert "fresh" not in (tmp_path / "log.txt").read_text()


def test_ranks_have_torchruns_variables_and_random_numbers_of_their_own(server: Path, tmp_path: Path) -> None:
    assert ForkedProcess(server, spec(tmp_path, "random", ranks=3)).wait(60) == 0
    drawn = {(tmp_path / f"out{rank}").read_text() for rank in range(3)}
    assert len(drawn) == 3
    said = (tmp_path / "log.txt").read_text().splitlines()
    assert sorted(said) == [f"out{rank}: {rank} of 3" for rank in range(3)]


@pytest.mark.parametrize(("loader", "ranks"), [("torchvision", 1), ("dali", 2)])
def test_a_run_in_a_fork_is_bit_equal_to_one_in_a_fresh_process(
    fork_server: Path, tmp_path: Path, loader: str, ranks: int
) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    norm = 8 * ranks
    experiment = load_experiment(
        tmp_path / "tiny.yaml", [f"data.loader={loader}", f"batch.norm_batch_size={norm}"]
    )
    folders = []
    ways: dict[str, StartProcess] = {
        "fresh": PlainProcess,
        "forked": lambda one: ForkedProcess(fork_server, one),
    }
    for name, start in ways.items():
        outcome = run_all(experiment.runs, tmp_path / name, 1, ranks, ProgressView(Console()), start)
        (folder,) = (tmp_path / name).iterdir()
        assert outcome.exit_code == 0, RunPaths(folder).log.read_text()
        assert "afresh" not in RunPaths(folder).log.read_text()
        folders.append(folder)

    from tests.helpers.bit_equal import assert_bit_equal, final_state, measured

    fresh, forked = folders
    assert_bit_equal(final_state(fresh), final_state(forked))
    assert measured(fresh) == measured(forked)


# ---------------------------------------------------------------- ends


def test_the_exit_code_is_reported_and_signals_reach_the_process(server: Path, tmp_path: Path) -> None:
    assert ForkedProcess(server, spec(tmp_path, "exit7")).wait(60) == 7
    for number, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -9)):
        process = started(server, tmp_path / number.name)
        process.send_signal(number)
        assert process.wait(60) == code


def test_a_killed_process_harms_no_other(server: Path, tmp_path: Path) -> None:
    one, other = (started(server, tmp_path / name) for name in ("one", "other"))
    os.kill(one._pids[0], signal.SIGKILL)
    assert one.wait(60) == -9
    assert other.poll() is None
    end([other])
    assert other.returncode == 0
    assert (tmp_path / "other" / "out").read_text() == "asked to stop"


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_process_is_asked_to_stop_when_its_client_is_gone(server: Path, tmp_path: Path, ranks: int) -> None:
    process = started(server, tmp_path, ranks=ranks)
    process._connection.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: all(path.read_text() == "asked to stop" for path in outputs(tmp_path, ranks)))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_process_is_asked_to_stop_when_the_server_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ranks: int
) -> None:
    for path in serving(
        monkeypatch, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))"
    ):
        process = started(path, tmp_path, ranks=ranks)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert process.wait(60) == 0
    assert all(path.read_text() == "asked to stop" for path in outputs(tmp_path, ranks))


def test_a_process_is_asked_to_stop_when_its_supervisor_is_killed(
    server: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = started(server, tmp_path)
    os.kill(psutil.Process(process._pids[0]).ppid(), signal.SIGKILL)
    assert process.wait(60) == 1
    assert (tmp_path / "out").read_text() == "asked to stop"
    assert f"supervisor of processes [{process._pids[0]}] was killed" in caplog.text


def test_ranks_are_killed_with_their_supervisor(server: Path, tmp_path: Path) -> None:
    process = started(server, tmp_path, ranks=2)
    os.kill(psutil.Process(process._pids[0]).ppid(), signal.SIGKILL)
    assert process.wait(60) == 1
    assert all(path.read_text() == "ready" for path in outputs(tmp_path, 2))


def test_the_ranks_end_when_one_fails_with_torchruns_exit_code(server: Path, tmp_path: Path) -> None:
    process = ForkedProcess(server, spec(tmp_path, "exit5", ranks=2))
    assert process.wait(60) == 1


def test_the_signal_that_a_rank_ended_by_is_returned(server: Path, tmp_path: Path) -> None:
    process = started(server, tmp_path, ranks=2)
    os.kill(process._pids[1], signal.SIGKILL)
    assert process.wait(60) == -9
    assert all(map(is_gone, process._pids))


def test_a_server_leaves_no_process_and_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in serving(monkeypatch):
        process = started(path, tmp_path)
    assert all(map(is_gone, process._pids))
    assert not path.parent.exists()


# ---------------------------------------------------------------- where forking does not serve


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (
            "import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
            "2 threads",
        ),
        ("f.reason_not_to_fork = lambda: 'CUDA is initialised'", "CUDA is initialised"),
        ("f.peer_uid = lambda _: 12345", "refused: a connection of user 12345"),
        ("raise ImportError('no module named torch')", "no module named torch"),
    ],
)
def test_a_refusal_is_loud_and_the_process_starts_afresh(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    before: str,
    reason: str,
) -> None:
    for path in serving(monkeypatch, before):
        assert starter_of(path)(spec(tmp_path, "exit7")).wait(60) == 7
    assert reason in caplog.text
    assert reason in (tmp_path / "log.txt").read_text()


def test_another_users_socket_is_not_used(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_client, "peer_uid", lambda _: os.getuid() + 1)
    assert starter_of(server)(spec(tmp_path, "exit7")).wait(60) == 7
    assert f"belongs to a process of user {os.getuid() + 1}" in caplog.text


def test_a_variable_that_libraries_read_on_import_needs_a_fresh_process(
    server: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert starter_of(server)(spec(tmp_path, "exit7", MKL_CBWR="COMPATIBLE")).wait(60) == 7
    assert "another MKL_CBWR" in caplog.text


def test_threads_may_differ_but_not_be_unset() -> None:
    assert misfit({}, {"OMP_NUM_THREADS": "3"}) is None
    assert misfit({"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "3"}) is None
    assert misfit({"OMP_NUM_THREADS": "2"}, {}) == "OMP_NUM_THREADS"


def test_cuda_in_the_server_forbids_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(os, "listdir", lambda _: ["1"])
    assert reason_not_to_fork() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert "CUDA" in str(reason_not_to_fork())


def test_a_server_that_cannot_be_started_and_one_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_client, "COMMAND", ("/no/such/program",))
    monkeypatch.setenv(fork_client.SERVER_VARIABLE, str(tmp_path / "gone"))
    with process_starter(2, os.environ) as start:
        assert start(spec(tmp_path, "exit7")).wait(60) == 7
    assert "this fork server is not used" in caplog.text
    assert "the fork server could not be started" in caplog.text


def test_one_process_alone_starts_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fork_client.SERVER_VARIABLE, raising=False)
    with process_starter(1, os.environ) as start:
        assert start is PlainProcess


def test_a_trainer_without_torch_is_preloaded_without_it() -> None:
    script = "import sys, jobs.local.fork_server as f; f.preload(); print('torch' in sys.modules)"
    command, env = [sys.executable, "-c", script], {**os.environ, **stand_in()}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
