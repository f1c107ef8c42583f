"""A loader that gives nothing: the run ends with that reason, whatever the loader waits in."""

import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Record, read_status
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.ranks import in_processes
from tests.helpers.runs import tiny_run
from tests.helpers.training_processes import train


def run_with(loader: str, **system: Any) -> Run:
    return tiny_run(data={"loader": loader}, system=system)


def _hang_after_three_steps(run: Run, folder: Path, stop_by: signal.Signals | None) -> None:
    """Let the loader wait as a file of a lost mount does; with `stop_by`, receive that signal meanwhile."""
    from suite.data import watch
    from suite.data.dali import DaliLoader
    from suite.train import train_run
    from suite.train.loop import Trainer

    watch.POLL_S, watch.SLACK_S, watch.STOP_PATIENCE_S = 0.1, 0.5, 0.5
    advance = Trainer.advance

    def advance_then_hang(trainer: Trainer, *arguments: object) -> object:
        if trainer.step == 3:
            if run.data.loader == "torchvision":
                for worker in psutil.Process().children():
                    worker.suspend()
            else:
                DaliLoader._batch = _wait_in_native_code
            if stop_by is not None:
                threading.Timer(0.5, os.kill, (os.getpid(), stop_by)).start()
        return advance(trainer, *arguments)

    Trainer.advance = advance_then_hang
    train_run(run, folder)


def _wait_in_native_code(*_: object) -> None:
    """Lock a mutex twice, which no signal interrupts."""
    mutex = ctypes.create_string_buffer(64)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        ("torchvision", "worker processes gave no batch for 2 s (system.collective_timeout_s): one of them"),
        (
            "dali",
            "the loader gave no batch for longer than system.collective_timeout_s (2 s): a file",
        ),
    ],
)
def test_a_loader_that_hangs_fails_with_its_reason(tmp_path: Path, loader: str, reason: str) -> None:
    run = run_with(loader, collective_timeout_s=2)
    assert in_processes(_hang_after_three_steps, [(run, tmp_path, None)]) == [1]
    status = read_status(RunPaths(tmp_path))
    assert status.state == "failed"
    assert reason in str(status.reason)
    assert [reason in error.sentence for error in status.errors] == [True]


@pytest.mark.parametrize("loader", ["torchvision", "dali"])
def test_a_stop_request_ends_a_run_whose_loader_hangs(tmp_path: Path, loader: str) -> None:
    run = run_with(loader, collective_timeout_s=600)
    before = time.monotonic()
    assert in_processes(_hang_after_three_steps, [(run, tmp_path, signal.SIGUSR2)]) == [1]
    assert time.monotonic() - before < 60
    record = Record.read(tmp_path)
    assert record.state == "preempted"
    assert "the loader has given no batch for" in str(record.reason)
    assert "by SIGUSR2" in str(record.reason)


def test_a_run_with_workers_that_is_stopped_ends_bit_equal(tmp_path: Path) -> None:
    """SIGTERM reaches every process of a job, as Slurm sends it: the workers too."""
    run = run_with("torchvision")
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    assert train(run, calm) == [0]
    assert in_processes(_stop_the_whole_session, [(run, stopped)]) == [75]
    assert Record.read(stopped).status["step"] == 9
    assert train(run, stopped) == [0]
    assert_bit_equal(final_state(stopped), final_state(calm))
    assert measured(stopped) == measured(calm)


def _stop_the_whole_session(run: Run, folder: Path) -> None:
    from suite.errors import Preempted
    from suite.train import train_run
    from suite.train.loop import Trainer

    advance = Trainer.advance

    def advance_then_stop(trainer: Trainer, *arguments: object) -> object:
        result = advance(trainer, *arguments)
        if trainer.step == 9:
            os.killpg(0, signal.SIGTERM)
            time.sleep(0.5)  # in which a worker that obeyed it would end
        return result

    Trainer.advance = advance_then_stop
    try:
        train_run(run, folder)
    except Preempted:
        os._exit(75)
