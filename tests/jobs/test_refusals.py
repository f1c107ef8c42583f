"""Bad input of the command line: one sentence, exit code 2, and nothing is written.

The command line is called in this process, and three times as a user calls it, in a process of its own.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command_line import shiftbench

ROOT = Path(__file__).parents[2]
CONFIG = """
model: {arch: small_resnet11, norm: [{kind: bn}, {kind: xbn}]}
data: {name: fashion-mnist-7k, image_size: 28, train_images: 96, val_images: 40}
batch: {global_batch_size: 16, norm_batch_size: 4}
recipe: {epochs: 1, lr: 0.05, schedule: constant}
"""
PROCESSES = (["run", "absent.yaml"], ["probe", "--arch", "resnet18"], ["frobnicate"])


def in_a_process(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=100)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


ARITHMETIC = "norm_batch_size 16 = 2 ranks × batch_size_per_gpu 8, but the run has 1 rank"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "absent.yaml"], "absent.yaml: no such file"),
        (["run", "CONFIG", "recipe.epochz=1"], "recipe.epochz: unknown key; did you mean 'epochs'?"),
        (["run", "CONFIG", "data.path=/no/such/folder"], "/no/such/folder is not a folder"),
        (
            ["run", "CONFIG", "batch.global_batch_size=128"],
            "global_batch_size 128 exceeds the 96 training images",
        ),
        (["run", "CONFIG", "data.val_images=1001"], "val_images is 1001"),
        (["run", "CONFIG", "--ranks", "3"], "= 48 samples a pass"),
        (
            ["run", "CONFIG", "batch={global_batch_size: 32, batch_size_per_gpu: 8, norm_batch_size: 16}"],
            ARITHMETIC,
        ),
        (["run", "CONFIG", "--output-dir", "/proc/nowhere"], "/proc/nowhere: cannot be written"),
        (["run", "CONFIG", "--jobs", "0"], "--jobs"),
        (["data", "prepare", "imagenet"], "data.path"),
        (["probe", "--arch", "resnet18"], "give --arch and --data"),
        (["probe", "--norm", "{kind: bn}"], "give --arch and --data"),
        (["probe", "--arch", "resnet19", "--data", "fashion-mnist-7k"], "unknown arch 'resnet19'"),
        (["report", "/no/such/runs"], "/no/such/runs"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    config: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    out = tmp_path / "out"
    extra = ["--output-dir", out] if arguments[0] == "run" and "--output-dir" not in arguments else []
    call = in_a_process if arguments in PROCESSES else shiftbench
    done = call(*[config if a == "CONFIG" else a for a in arguments], *extra)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize("command", ["run", "submit", "tune"])
def test_an_output_folder_without_locks(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, number: int
) -> None:
    """NFS without a lock service, Lustre without -o flock: each command says the same."""

    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if command == "tune":
        config.with_name("study.yaml").write_text("experiment: tiny.yaml\nspace: {recipe.lr: [0.1, 0.2]}\n")
        config = config.with_name("study.yaml")
    monkeypatch.setattr("fcntl.flock", no_locks)
    done = shiftbench(command, config, "model.norm={kind: bn}", "--output-dir", tmp_path / "runs")
    assert done.returncode == 2, done.stdout + done.stderr
    said = f": this file system has no locks ({os.strerror(number)}); choose an output folder on one that has"
    assert f"error: {tmp_path}/runs" in done.stderr, done.stderr
    assert said in done.stderr
    assert "NFS: with a lock service, without nolock" in done.stderr
    assert not list((tmp_path / "runs").glob("**/run.json"))
