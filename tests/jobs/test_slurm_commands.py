"""What Slurm's messages mean, and the private functions of Submitit that its scripts come from."""

import inspect
from pathlib import Path

import pytest
from submitit import SlurmExecutor
from submitit.core.utils import DelayedSubmission

from jobs.cluster.slurm_commands import PHRASES, SlurmError, SlurmFailure, current_job, no_slurm

# One message for each phrase of the table, as Slurm prints it.
MESSAGES: dict[str, tuple[str, SlurmFailure]] = {
    "is not on the PATH": (str(no_slurm("no-such-command")), "not_installed"),
    "is not installed": ("sacct is not installed here", "not_installed"),
    "did not answer": ("sbatch did not answer in 60 s", "answer_lost"),
    "Socket timed out": ("sbatch: error: Socket timed out on send/recv operation", "answer_lost"),
    "Zero Bytes": ("sbatch: error: Zero Bytes were transmitted or received", "answer_lost"),
    "Transport endpoint": ("sbatch: error: Transport endpoint is not connected", "answer_lost"),
    "Unable to contact": ("Unable to contact slurm controller (connect failure)", "unreachable"),
    "Connection refused": ("slurm_persist_conn_open: Connection refused", "unreachable"),
    "timed out": ("error: Unable to allocate resources: Connection timed out", "unreachable"),
    "Munge encode failed": (
        'squeue: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or '
        "directory; slurm_load_jobs error: Protocol authentication error",
        "unreachable",
    ),
    "SubmitJob": ("error: QOSMaxSubmitJobPerUserLimit", "limit"),
    "temporarily": ("sbatch: error: Slurm temporarily unable to accept job", "limit"),
}


def test_every_phrase_of_the_table_has_a_message_here() -> None:
    assert list(MESSAGES) == list(PHRASES)


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_message_has_the_kind_of_its_phrase(phrase: str) -> None:
    message, kind = MESSAGES[phrase]
    error = SlurmError(message)
    assert (str(error), error.kind) == (message, kind)
    assert error.is_temporary is (kind != "not_installed")


def test_any_other_message_is_a_refusal_unless_its_kind_is_given() -> None:
    refusal = SlurmError("sbatch: error: invalid partition specified: nowhere")
    assert (refusal.kind, refusal.is_temporary) == ("refused", False)
    assert SlurmError("sbatch printed '' and no job's id", "answer_lost").kind == "answer_lost"


def test_a_lost_answer_is_not_taken_for_an_unreachable_controller() -> None:
    """The order of the table: the job may exist although the message also says that something timed out."""
    assert SlurmError("Socket timed out: Unable to contact slurm controller").kind == "answer_lost"


def test_a_task_of_an_array_knows_its_own_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert current_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert current_job() == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert current_job() == "10_3"


def used_of_submitit(executor: type = SlurmExecutor, submission: type = DelayedSubmission) -> list[str]:
    """What is missing or different among Submitit's functions that jobs/cluster/sbatch.py calls."""
    wanted = {
        (executor, "_make_submission_file_text"): ["self", "command", "uid"],
        (executor, "update_parameters"): ["self", "kwargs"],
        (submission, "set_timeout"): ["self", "timeout_min", "max_num_timeout"],
        (submission, "dump"): ["self", "filepath"],
    }
    problems = []
    for (owner, name), parameters in wanted.items():
        found = getattr(owner, name, None)
        actual = list(inspect.signature(found).parameters) if callable(found) else None
        if actual != parameters:
            problems.append(f"{owner.__name__}.{name}: expected the parameters {parameters}, found {actual}")
    return problems


def test_submitit_has_the_private_functions_that_we_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = used_of_submitit()
    assert not problems, f"this Submitit does not fit jobs/cluster/sbatch.py: {'; '.join(problems)}"
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert isinstance(SlurmExecutor(tmp_path, python="python").parameters, dict), "SlurmExecutor.parameters"


def test_a_submitit_without_them_is_named() -> None:
    class Other:
        def dump(self, filepath: str, compress: bool) -> None: ...

    problems = used_of_submitit(Other, Other)
    assert len(problems) == 4
    assert "Other.dump: expected the parameters ['self', 'filepath']" in "; ".join(problems)
