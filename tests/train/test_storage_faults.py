"""What ended a run is named: the storage that is full, the folder that was removed, the rank that hangs."""

import errno
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from suite import files
from suite.paths import RunPaths
from suite.record import RecordWriter, read_status
from suite.record.rank_errors import RankError, has_waited, note_error
from suite.train import storage_fault
from tests.helpers.runs import make_run


def full(filename: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", filename)


@pytest.mark.parametrize(
    ("filename", "full_places", "has_checkpoint", "sentence"),
    [
        (
            "{run}/status.json",
            [],
            True,
            "{run}: No space left on device: the last complete checkpoint is kept",
        ),
        ("{run}/status.json", [], False, "{run}: No space left on device: there is no checkpoint yet"),
        (None, [], False, "{run}: No space left on device: there is no checkpoint yet"),
        (None, ["/dev/shm"], True, "/dev/shm: No space left on device"),
        ("/scratch/x", [], True, "/scratch/x: No space left on device"),
    ],
)
def test_the_storage_that_is_full(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    filename: str | None,
    full_places: list[str],
    has_checkpoint: bool,
    sentence: str,
) -> None:
    paths = RunPaths(tmp_path)
    if has_checkpoint:
        paths.checkpoints.mkdir()
        paths.checkpoint(4).touch()
    usage = lambda place: SimpleNamespace(free=0 if str(place) in full_places else 2**30)  # noqa: E731
    monkeypatch.setattr(files.shutil, "disk_usage", usage)
    error = full(None if filename is None else filename.format(run=tmp_path))
    assert storage_fault(error, paths) == sentence.format(run=tmp_path)


def test_a_folder_that_was_removed(tmp_path: Path) -> None:
    error = OSError(errno.ENOENT, "No such file or directory", str(tmp_path / "run" / "status.json"))
    said = storage_fault(error, RunPaths(tmp_path / "run"))
    assert said == f"{tmp_path / 'run'}: was removed while the run trained"
    (tmp_path / "run").mkdir()
    assert storage_fault(error, RunPaths(tmp_path / "run")) is None


def test_status_of_a_folder_that_was_removed(tmp_path: Path) -> None:
    """A rank's error is written into the folder anew, and says more than the lack of a status."""
    run = make_run()
    paths = RunPaths(tmp_path / run.folder_name)
    with RecordWriter(run, paths.folder) as record:
        record.start({})
        shutil.rmtree(paths.folder)
        assert read_status(paths).reason == "it never started, or its folder was removed"
        note_error(paths, 0, RuntimeError("the folder is gone"))
    assert read_status(paths).state == "failed"
    assert read_status(paths).reason == f"rank 0 on {os.uname().nodename}: RuntimeError: the folder is gone"


# As torch 2.15 and its issues have them.
WORK = "WorkNCCL(SeqNum=808, OpType=ALLREDUCE, NumelIn=9801523, NumelOut=9801523, Timeout(ms)=600000)"
WATCHDOG = (
    f"Watchdog caught collective operation timeout: {WORK} ran for 600020 milliseconds before timing out."
)
SETS_UP = (
    "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key"
)
WAITED = {
    "gloo": "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 10000ms for recv operation",
    "gloo, a closed pair": "Application timeout caused pair closure",
    "gloo, connecting": "Gloo connectFullMesh failed with [gloo/transport/tcp/helpers.cc:72] timed out "
    "connecting: SO_ERROR: Connection timed out, remote=[10.0.0.2]:5432",
    "a key": "Timeout waiting for key: default_pg/0//cpu//0/1 after 600000 ms",
    "a barrier": "barrier timeout after 600000ms, key: default_pg/0//barrier",
    "store": "Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
    "NCCL, aborted": "NCCL communicator was aborted on rank 1. Original reason for failure was: "
    f"[Rank 1] {WATCHDOG}",
    "NCCL, blocking": f"Work {WORK} timed out in blocking wait.",
    "NCCL, in setting up": f"{SETS_UP} '0', but store->get('0') got error: wait timeout after 600000ms",
    "NCCL, nonblocking": "NCCL timeout when waiting for nonblocking call to become successful.",
}
LOST = {
    "gloo": "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5432",
    "NCCL": "NCCL error in: NCCLUtils.hpp:268, remote process exited or there was a network error",
    "NCCL, by name": "NCCL error in: NCCLUtils.hpp:317, NCCL version 2.21.5\nncclRemoteError: A call failed",
    "NCCL, aborted": "NCCL communicator was aborted on rank 1.",
    "NCCL, in setting up": f"{SETS_UP} '0', but store->get('0') got error: Connection reset by peer",
}
# Errors of a rank's own, although they name a time-out.
OWN = {
    "gloo, at a port where nobody listens": "Gloo connectFullMesh failed with [gloo/transport/tcp/"
    "helpers.cc:72] timed out connecting: SO_ERROR: Connection refused, remote=[127.0.1.1]:5432",
    "a broker": "Timed out connecting to MQTT broker",
    "an object store": "HTTPSConnectionPool(host='s3', port=443): Read timed out. (read timeout=60)",
    "a file system": "[Errno 110] Connection timed out: '/data/train/3.jpg'",
}
HANGS = "a rank hangs, or is slower than the others by more than system.collective_timeout_s, as rank"


@pytest.mark.parametrize("said", OWN.values(), ids=OWN)
def test_a_time_out_of_something_else_is_the_ranks_own(said: str) -> None:
    assert not has_waited(f"Traceback (most recent call last):\n  File ...\nOSError: {said}")


@pytest.mark.parametrize(
    ("said", "beginning"),
    [
        *((said, HANGS) for said in WAITED.values()),
        *((said, "a rank was lost (killed, or its node failed), as rank") for said in LOST.values()),
    ],
    ids=[*WAITED, *LOST],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_the_rank_that_waited_is_not_blamed(
    tmp_path: Path, is_first: bool, said: str, beginning: str
) -> None:
    run = make_run()
    paths = RunPaths(tmp_path)
    waited = RuntimeError(said)
    with RecordWriter(run, tmp_path) as record:
        record.start({})
        note_error(paths, 0 if is_first else 1, waited)
        record.status("failed", reason=str(waited))
    reason = str(read_status(paths).reason)
    assert reason.startswith(beginning)
    assert said.splitlines()[0] in reason
    # An error of another rank is the cause, although it is later.
    time.sleep(0.01)
    note_error(paths, 2, ValueError("planted"))
    assert str(read_status(paths).reason).endswith("ValueError: planted")


def test_a_data_worker_that_was_killed_is_no_lost_rank() -> None:
    said = "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed."
    error = RankError(0, "n1", 1.0, said, f"ConnectionResetError: Connection reset by peer … {said}")
    assert str(error) == f"rank 0 on n1: {said}"
