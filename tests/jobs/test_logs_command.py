"""`logs`, and `status` and `cancel` where there is nothing or nobody to ask."""

from pathlib import Path

import pytest

from jobs.cluster import slurm_commands
from jobs.cluster.ledger import Ledger, new_submission
from jobs.cluster.slurm_commands import SlurmError, said_by
from suite.record import RecordWriter
from tests.helpers.command_line import shiftbench
from tests.helpers.runs import make_run


@pytest.fixture
def in_slurm(tmp_path: Path) -> Path:
    """The folder of a run that trains in job 12, with its log and the output of the job."""
    run, ledger = make_run(), Ledger(tmp_path)
    entry = new_submission("x", {"scheduler": "slurm"}, tmp_path, tmp_path, [run.folder_name])
    with ledger.held():
        entry = ledger.accepted(entry, "12")
    with RecordWriter(run, tmp_path / run.folder_name) as record:
        record.start({"scheduler_job": "12"})
        record.paths.log.write_text("epoch 1\nslow\nslow\n\nepoch 2\n")
    entry.folder.mkdir(parents=True, exist_ok=True)
    (entry.folder / "12_0_log.out").write_text("Starting\nslow\n")
    (entry.folder / "12_0_log.err").write_text("epoch 1\nslow\nslow\n\nepoch 2\nslow\nsrun: error: x\n")
    return tmp_path


def silent(*_: str, **__: float) -> str:
    raise SlurmError("Unable to contact slurm controller (connect failure)")


def test_logs_print_each_line_once(in_slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rank logs is in the run's log and in its job's errors; a line that is repeated stays so."""
    monkeypatch.setattr(slurm_commands, "ask", silent)
    printed = shiftbench("logs", make_run().folder_name, "--output-dir", in_slurm).stdout
    lines = [line for line in printed.splitlines() if line and not line.startswith("==> ")]
    assert lines == ["epoch 1", "slow", "slow", "epoch 2", "Starting", "slow", "srun: error: x"]


def test_cancel_while_slurm_does_not_answer_says_why(in_slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_commands, "ask", silent)
    done = shiftbench("cancel", "--all", "--output-dir", in_slurm)
    assert done.returncode == 1
    assert "not every run could be cancelled: Slurm does not answer" in done.stderr
    assert "Unable to contact slurm controller" in done.stderr


def test_a_folder_without_runs(tmp_path: Path) -> None:
    done = shiftbench("status", "--output-dir", tmp_path)
    assert (done.returncode, done.stdout) == (0, "0 runs\n")


def test_a_command_is_named_once() -> None:
    assert said_by("scontrol", "scontrol: error: x") == "scontrol: error: x"
    assert said_by("scontrol", "x") == "scontrol: x"
