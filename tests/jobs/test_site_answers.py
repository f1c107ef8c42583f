"""What sites print: banners around a job's number, other encodings, settings without a value, odd arrays."""

from pathlib import Path

import pytest

from jobs.cluster import slurm_commands
from jobs.cluster.slurm_commands import SlurmError, ask, cancelled_in_waiting_arrays, max_array_size
from suite.config import load_experiment
from tests.helpers.command_line import shiftbench
from tests.helpers.records import write_run
from tests.helpers.slurm_answers import answers

CONFIG = """
model: {arch: small_resnet11}
data: {name: fashion-mnist-7k, image_size: 28, train_images: 64, val_images: 41}
batch: {global_batch_size: 16}
seeds: [0, 1]
"""


@pytest.mark.parametrize(
    ("printed", "job"),
    [
        ("Submitted batch job 4711\n", "4711"),
        ("4711\n", "4711"),
        ("4711;gpu\n", "4711"),  # --parsable with the cluster's name
        ("Welcome!\n  4711  \nbye\n", "4711"),
        ("** quota: 12 of 100 **\nSubmitted batch job 4711\n2026\n", "4711"),
        ("sbatch: info: Submitted batch job 4711 on cluster gpu\n", "4711"),
        ("2026\n4711\n", "99"),  # two numbers: the queue decides
        ("ok\n", "99"),
        ("", "99"),
    ],
)
def test_the_number_of_a_job_in_what_sbatch_prints(
    printed: str, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, "99_0|PENDING|Priority||x-1\n99_1|PENDING|Priority||x-1\n7|RUNNING|None|n1|x-12\n")
    assert slurm_commands.submitted_job(printed, "x-1") == job


def test_a_number_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "")
    assert slurm_commands.submitted_job("2026\n4711\n", "x-1") is None

    def silent(*_: str) -> str:
        raise SlurmError("did not answer")

    monkeypatch.setattr(slurm_commands, "ask", silent)
    assert slurm_commands.submitted_job("ok\n", "x-1") is None


def test_messages_in_another_encoding_are_passed_on() -> None:
    assert ask("printf", r"12|PENDING|Priorit\351\n") == "12|PENDING|Priorit\\xe9\n"
    with pytest.raises(SlurmError, match=r"^sbatch: error: quota d\\xe9pass\\xe9$"):
        ask("sh", "-c", r"printf 'sbatch: error: quota d\351pass\351\n' >&2; exit 1")


@pytest.mark.parametrize("text", ["(null)", "", "UNLIMITED"])
def test_a_site_without_a_largest_array(text: str) -> None:
    assert max_array_size({"MaxArraySize": text}) == slurm_commands.DEFAULT_ARRAY_SIZE


def test_a_task_that_was_cancelled_while_its_array_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "12_0|RUNNING|None|n1|x\n12_2|PENDING|Resources||x\n13_1|RUNNING|None|n1|y\n15|PENDING|Held||z\n"
    answers(monkeypatch, listed)
    # Neither a job that is no task of an array, although one of its number waits, nor a task of no array.
    missing = ["12_1", "12_2", "13_0", "14", "12", "15_0"]
    found = cancelled_in_waiting_arrays(missing, slurm_commands.queue(["x", "y", "z"]))
    assert {job: (one.state, one.name) for job, one in found.items()} == {"12_1": ("CANCELLED", "x")}


def test_a_dry_run_of_what_is_complete(tmp_path: Path) -> None:
    (config := tmp_path / "x.yaml").write_text(CONFIG)
    for run in load_experiment(config).runs:
        write_run(tmp_path / "runs", run, esm_sigma=[1.0], layers=["bn1"], total_steps=24)
    done = shiftbench("submit", config, "--dry-run", "--output-dir", tmp_path / "runs")
    assert done.returncode == 0
    assert done.stdout.count("complete  ") == 2
    assert done.stdout.endswith("nothing to submit\n")
