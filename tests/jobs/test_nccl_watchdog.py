"""Processes that NCCL's watchdog aborts: Python raises nothing in them, and their logs say why."""

import signal
import time
from pathlib import Path
from unittest import mock

import pytest

from jobs.cluster import slurm_commands
from jobs.cluster.ledger import Ledger, new_submission
from jobs.cluster.overview import overview
from jobs.local.child import Child, settle
from suite.paths import RunPaths
from suite.record import RecordWriter, read_status
from tests.helpers.flights import dump, leave
from tests.helpers.runs import make_run
from tests.helpers.slurm_answers import SLURM

WORK = "WorkNCCL(SeqNum=808, OpType=ALLREDUCE, NumelIn=9801523, NumelOut=9801523, Timeout(ms)=600000)"
WATCHDOG = (
    f"Watchdog caught collective operation timeout: {WORK} ran for 600020 milliseconds before timing out."
)
HANGS = "a rank hangs, or is slower than the others by more than system.collective_timeout_s, as rank"
# As torch 2.15 writes it.
LOG = f"""
[rank1]:[E626 06:24:44.903881913 ProcessGroupNCCL.cpp:616] [Rank 1] {WATCHDOG}
[rank1]:[E626 06:24:44.906457629 ProcessGroupNCCL.cpp:1785] [PG ID 0 PG GUID 0(default_pg) Rank 1] Exception \
(either an error or timeout) detected by watchdog at work: 808, last enqueued NCCL work: 811.
[rank1]:[E626 06:24:45.1 ProcessGroupNCCL.cpp:681] To avoid data inconsistency, we are taking the entire \
process down.
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [PG ID 0 PG GUID 0(default_pg) Rank 1] Process group watchdog thread terminated with exception: \
[Rank 1] {WATCHDOG}
Exception raised from checkTimeout at ProcessGroupNCCL.cpp:632 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x96 (0x7f5a9616c1b6 in libc10.so)
"""


def test_a_process_that_nccls_watchdog_aborts_is_not_blamed(tmp_path: Path) -> None:
    """Python raises nothing then: what is known is in the log."""
    run, ended = make_run(), mock.Mock(**{"poll.return_value": -signal.SIGABRT})
    child = Child(run, tmp_path, ended, {}, time.time())
    with RecordWriter(run, tmp_path) as record:
        record.start({})
    (log := RunPaths(tmp_path).log).write_text("starts\n")
    assert settle(child) == ("failed", "its process was killed by SIGABRT; see log.txt")
    with RecordWriter(run, tmp_path) as record:
        record.start({})
    log.write_text(LOG)
    assert settle(child) == ("failed", f"{HANGS} 1 noticed: {WATCHDOG}")
    assert read_status(RunPaths(tmp_path)).reason == f"{HANGS} 1 noticed: {WATCHDOG}"
    step = ["all_reduce"] * 2
    lagging, waiting = dump(step, ranks="[0, 1]"), dump([*step, "all_reduce"], pending=1, ranks="[0, 1]")
    leave(RunPaths(tmp_path), ["n1", "n2"], {0: lagging, 1: waiting})  # NCCL's own dumps
    with RecordWriter(run, tmp_path) as record:
        record.start({})
    _, reason = settle(child)
    assert reason is not None
    assert reason.startswith(
        "rank 0 on n1 hangs, or is slower than the others by more than system.collective_"
    )
    assert reason.endswith(f"(rank 1 on n2 waited in all_reduce 3), as rank 1 noticed: {WATCHDOG}")
    ended.poll.return_value = -signal.SIGKILL  # such as a later attempt's, without memory, in the same log
    with RecordWriter(run, tmp_path) as record:
        record.start({})
    assert settle(child) == ("failed", "its process was killed by SIGKILL; see log.txt")


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        ("FAILED|134:0", f"FAILED, exit code 134; {HANGS} 1 noticed: {WATCHDOG}"),
        ("OUT_OF_MEMORY|0:125", "OUT_OF_MEMORY"),  # of a later attempt, which goes on in the same logs
    ],
)
def test_a_job_that_nccls_watchdog_aborts_is_not_blamed(
    ended: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ledger = make_run(), Ledger(tmp_path / "runs")
    with ledger.held():
        one = ledger.accepted(new_submission("x", SLURM, tmp_path, tmp_path, [run.folder_name]), "12")
    with RecordWriter(run, ledger.output_dir / run.folder_name) as record:
        record.queue()
        record.start({"scheduler_job": "12"})
    one.folder.mkdir()
    (one.folder / "12_0_log.err").write_text("srun: error: n2: task 1: Aborted (core dumped)\n")
    (one.folder / "12_1_log.err").write_text(LOG)
    answers = {"squeue": "", "sacct": f"12|{ended}|n[1-2]|{one.name}\n"}
    monkeypatch.setattr(slurm_commands, "ask", lambda name, *_: answers[name])
    (seen,) = overview(ledger.output_dir).runs
    assert seen.reason.startswith(f"job 12: {reason}")
    assert (HANGS in seen.reason) == (HANGS in reason)
