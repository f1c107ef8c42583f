"""The torchvision loader's processes: signals, a killed parent, a stopped one, and shared memory."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from jobs.checks import check_shared_memory
from suite.data import Batch, vision, workers
from suite.data.plan import EvalShare
from suite.data.sources import folder_index
from suite.data.vision import VisionLoader
from suite.data.watch import WaitTimer
from suite.errors import UserError
from suite.experiment import DataSpec
from suite.files import is_locked, locked
from tests.helpers.cells import needs_mounts, wait_until
from tests.helpers.ranks import in_processes
from tests.helpers.runs import make_run
from tests.helpers.small_detectors import small_run

CPU = torch.device("cpu")
DATA = {"name": "fashion-mnist-7k", "train_images": 64, "val_images": 41}
Started = tuple[Generator[Batch, None, None], list[psutil.Process]]


def vision_loader(
    folder: Path, *, image_size: int = 48, images_per_batch: int = 1, timeout_s: float = 60.0
) -> VisionLoader:
    """40 pictures by two workers."""
    data = DataSpec(name="test", path=str(folder), num_classes=3, image_size=image_size, loader="torchvision")
    share = EvalShare(folder_index(data, "train"), images_per_batch, 0, 1)
    return VisionLoader(share, data, num_workers=2, timeout_s=timeout_s, device=CPU)


def children() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.fixture
def started(pictures: Path) -> Iterator[Started]:
    """Batches of which the first has come, with a time-out of 1 s, and the two workers."""
    before = set(children())
    batches = (batch for batch in vision_loader(pictures, timeout_s=1.0))
    next(batches)
    found = [process for process in children() if process not in before]
    assert len(found) == 2
    yield batches, found
    batches.close()
    assert not set(children()) - before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_stop_signals_do_not_reach_workers(
    pictures: Path,
    number: signal.Signals,
    started: Started,
) -> None:
    batches, processes = started
    for process in processes:
        process.send_signal(number)
    rest = list(batches)
    undisturbed = list(vision_loader(pictures))[1:]
    assert len(rest) == 39
    for a, b in zip(rest, undisturbed, strict=True):
        assert torch.equal(a.images_NCHW, b.images_NCHW)


def test_this_process_still_receives_them(started: Started) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_stopped_worker_is_a_sentence_and_is_ended(
    started: Started,
) -> None:
    batches, processes = started
    for process in processes:
        process.suspend()
    with pytest.raises(RuntimeError, match=r"2 worker processes gave no batch for 1 s.*collective_timeout_s"):
        list(batches)


def test_a_long_tmpdir_costs_no_batch(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of sockets, by which workers give tensors, are limited to 107 bytes."""
    (long := tmp_path / ("x" * 90)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert len(list(vision_loader(pictures, images_per_batch=8, timeout_s=5.0))) == 5
    assert not list(long.iterdir())


def _orphan_a_stopped_worker(folder: Path, out: Path) -> None:
    with locked(out / "lock", wait=False):
        batches = iter(vision_loader(folder))
        next(batches)
        for worker in children():
            worker.suspend()  # one that only polls for its parent would survive
        (out / "workers").write_text(json.dumps([worker.pid for worker in children()]))
        os.kill(os.getpid(), signal.SIGKILL)


def test_workers_end_with_their_parent_and_do_not_hold_its_lock(pictures: Path, tmp_path: Path) -> None:
    assert in_processes(_orphan_a_stopped_worker, [(pictures, tmp_path)]) == [-signal.SIGKILL]
    pids = json.loads((tmp_path / "workers").read_text())
    assert len(pids) == 2
    wait_until("the workers' end", lambda: not any(psutil.pid_exists(pid) for pid in pids), 5)
    assert is_locked(tmp_path / "lock") is False


def _read_with_shared_memory(size: str, is_checked: bool, folder: Path, out: Path) -> None:
    """Read 20 images at a time with a /dev/shm of this size, which this process alone sees."""
    new_namespace = 0x00020000  # CLONE_NEWNS
    assert ctypes.CDLL(None, use_errno=True).unshare(new_namespace) == 0
    for command in ("mount --make-rprivate /", f"mount -t tmpfs -o size={size} tmpfs /dev/shm"):
        subprocess.run(command.split(), check=True)
    if not is_checked:
        vision.shared_memory_shortage = lambda _: None  # type: ignore[assignment]
    loader = vision_loader(folder, timeout_s=1.0, image_size=128, images_per_batch=20)
    try:
        out.write_text(f"{len(list(loader))} batches")
    except Exception as error:
        out.write_text(f"{type(error).__name__}: {error}")


@needs_mounts
@pytest.mark.parametrize(
    ("size", "is_checked", "said"),
    [
        ("3m", True, "UserError: /dev/shm has 3 MiB, of which 3 are free; the batches of the torchvision"),
        ("3m", False, "RuntimeError: the loader's 2 worker processes gave no batch for 1 s"),
        ("20m", True, "2 batches"),
    ],
)
def test_a_small_shared_memory_is_a_sentence(
    pictures: Path, tmp_path: Path, size: str, is_checked: bool, said: str
) -> None:
    """Two batches of 20 images of 3 × 128 × 128 in float32 take 7.5 MiB."""
    out = tmp_path / "said"
    assert in_processes(_read_with_shared_memory, [(size, is_checked, pictures, out)]) == [0]
    assert out.read_text().startswith(said)


def test_what_batches_need_of_shared_memory() -> None:
    """Two batches of each of 4 workers and the one in use; never more than there are."""
    assert workers.shared_memory_needed(64, 224, 4) == 9 * 64 * 3 * 224 * 224 * 4
    assert workers.shared_memory_needed(64, 224, 4, num_batches=2) == 2 * 64 * 3 * 224 * 224 * 4


def test_a_system_without_that_folder_is_not_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "missing")
    assert workers.shared_memory_shortage(2**60) is None


def test_a_run_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks of five batches of 2.1 MiB each in 8 MiB; what others use now may be free later."""
    run = make_run(
        data={**DATA, "image_size": 128, "loader": "torchvision"},
        batch={"global_batch_size": 11},
        system={"data_threads": 2},
    )
    assert workers.shared_memory_of_run(run) == 9 * 11 * 3 * 128 * 128 * 4
    sizes = os.statvfs_result((4096, 4096, 2048, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(workers.os, "statvfs", lambda _: sizes)
    check_shared_memory([], 1, 2)
    check_shared_memory([make_run(data={**DATA, "image_size": 128})], 1, 2)  # DALI has threads
    with pytest.raises(UserError, match=r"/dev/shm has 8 MiB, of which 0 are free; .* need 37 MiB"):
        check_shared_memory([run], 1, 2)
    small = make_run(
        data={**DATA, "image_size": 28, "loader": "torchvision"}, batch={"global_batch_size": 11}
    )
    check_shared_memory([small] * 50, 1, 2)
    check_shared_memory([small, run], 2, 0)
    # The largest runs that may train at a time, and not as many of the largest.
    with pytest.raises(UserError, match="need 19 MiB"):
        check_shared_memory([small] * 7 + [run], 2, 1)


RAISING = """
import sys, torch
from suite.data.plan import EvalShare
from suite.data.sources import folder_index
from suite.data.vision import VisionLoader
from suite.experiment import DataSpec
data = DataSpec(name="test", path=sys.argv[1], num_classes=3, image_size=48, loader="torchvision")
share = EvalShare(folder_index(data, "train"), 1, 0, 1)
batches = iter(VisionLoader(share, data, num_workers=2, timeout_s=60, device=torch.device("cpu")))
next(batches)
raise ValueError("planted")
"""


def test_a_process_that_raises_between_two_batches_ends(pictures: Path) -> None:
    """Python waits for its worker processes at its end, with the loader still in the traceback's frames."""
    command = [sys.executable, "-c", RAISING, str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ValueError: planted" in done.stderr


def test_time_in_which_the_process_was_suspended_is_no_waiting() -> None:
    over: list[bool] = []
    with WaitTimer(0.8, lambda: over.append(True)) as timer, timer.waiting():
        sleeper = subprocess.Popen(
            ["sh", "-c", f"sleep 0.2; kill -STOP {os.getpid()}; sleep 2; kill -CONT {os.getpid()}"]
        )
        sleeper.wait()
        assert over == []
        wait_until("the end of patience", lambda: over, 5)


def test_the_memory_of_a_detection_run_by_hand(tmp_path: Path) -> None:
    """Two loaders of one worker, each two batches ahead, and those in use: bytes of images of 32 × 64."""
    run = small_run(tmp_path)
    assert workers.shared_memory_of_run(run) == workers.held_batches(2, None) * 2 * 3 * 32 * 64
