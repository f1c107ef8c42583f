"""The command line: what users call, what it prints and how it ends."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.local.fork_client import ForkedProcess
from jobs.local.process import ProcessSpec
from suite.config import load_experiment
from suite.record import RecordWriter
from tests.helpers import command_line

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
model: {arch: small_resnet11, norm: [{kind: bn}, {kind: xbn}]}
data: {name: fashion-mnist-7k, image_size: 28, train_images: 96, val_images: 40}
batch: {global_batch_size: 16, norm_batch_size: 4}
recipe: {epochs: 1, lr: 0.05, schedule: constant}
measure: {precise_bn_images: 16, warmup_steps: 1}
system: {torch_threads: 1, data_threads: 1}
"""


def shiftbench(*arguments: object, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=250
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


def test_help_config_and_refusals_import_no_torch(config: Path) -> None:
    commands = [
        *(["--help"], ["run", "--help"], ["doctor", "--help"]),
        *(["config", "schema"], ["config", "show", str(config)], ["run", str(config), "a=1"]),
    ]
    code = (
        "import sys\n"
        "from jobs.cli import main\n"
        f"for arguments in {commands!r}:\n"
        "    sys.argv, code = ['shiftbench', *arguments], None\n"
        "    try: main()\n"
        "    except SystemExit as end: code = end.code\n"
        "    heavy = {'torch', 'torchvision', 'nvidia.dali', 'pandas', 'scipy'} & set(sys.modules)\n"
        "    if heavy or code != (2 if 'a=1' in arguments else 0): sys.exit(f'{arguments}: {code}, {heavy}')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_config_show_and_schema(config: Path) -> None:
    shown = command_line.shiftbench("config", "show", config, "seeds=[3]", "--full").stdout
    assert shown.count("run_id: ") == 2
    assert "num_groups: 8" in shown
    assert "seed: 3" in shown
    table = command_line.shiftbench("config", "show", config, "seeds=[3, 4, 7]", COLUMNS="80").stdout
    lines = table.splitlines()
    assert lines[0] == "tiny: 6 runs"
    assert "batch.norm_batch_size=4" in table
    assert "recipe.momentum" not in table  # a default, and the same in every run
    assert [line.rstrip().split(maxsplit=1) for line in lines[-4:-1]] == [
        ["model.norm", "seeds"],
        *(["BN", "3–4, 7"], ["XBN-P2-GN8", "3–4, 7"]),
    ]
    schema = json.loads(command_line.shiftbench("config", "schema", "--json").stdout)
    assert "norm_batch_size" in json.dumps(schema)
    listed = command_line.shiftbench("config", "schema", config, COLUMNS="80").stdout
    assert "  norm_batch_size  int | null; default null" in listed
    assert "      here: 4" in [line.rstrip() for line in listed.splitlines()]
    assert max(map(len, listed.splitlines())) <= 80


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fork_server: Path) -> tuple[Path, Path, str]:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(CONFIG)
    done = shiftbench("run", folder / "tiny.yaml", "--output-dir", folder / "runs", "--jobs", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "tiny.yaml", folder / "runs", done.stdout


def test_a_run_from_yaml_to_record_to_report(finished: tuple[Path, Path, str], tmp_path: Path) -> None:
    config, runs, printed = finished
    assert "2 completed, 0 were complete, 0 did not complete" in printed
    folders = sorted(runs.iterdir())
    assert [json.loads((f / "status.json").read_text())["state"] for f in folders] == ["completed"] * 2
    again = command_line.shiftbench("run", config, "--output-dir", runs)
    assert again.returncode == 0
    assert "0 completed, 2 were complete" in again.stdout
    report = command_line.shiftbench("report", runs, "--out", tmp_path / "report", COLUMNS="200")
    assert report.returncode == 0, report.stderr
    assert "XBN-P2-GN8" in report.stdout
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000
    assert (tmp_path / "report" / "report.md").exists()


def test_probe_finds_its_model_beside_the_checkpoint(finished: tuple[Path, Path, str]) -> None:
    _, runs, _ = finished
    folder = next(f for f in runs.iterdir() if "-bn-" in f.name)
    newest = sorted((folder / "checkpoints").glob("step-*.pt"))[-1]
    done = command_line.shiftbench("probe", "--checkpoint", newest, "--json")
    assert done.returncode == 0, done.stderr
    profile = json.loads(done.stdout)
    assert (profile["num_images"], len(profile["layers"])) == (40, 13)
    # The run itself probed the same images with the same weights at its end.
    layers = json.loads((folder / "layers.json").read_text())
    assert [layer["layer"] for layer in profile["layers"]] == [layer["name"] for layer in layers]
    lines = [json.loads(line) for line in (folder / "measurements.jsonl").read_text().splitlines()]
    recorded = next(line["value"] for line in reversed(lines) if line["metric"] == "esm_sigma")
    assert [layer["esm_sigma"] for layer in profile["layers"]] == pytest.approx(recorded, rel=1e-4)


@pytest.mark.usefixtures("fork_server")
def test_a_loss_that_is_not_finite_is_diverged_and_exit_code_3(config: Path, tmp_path: Path) -> None:
    done = command_line.shiftbench(
        "run", config, "recipe.lr=1.0e30", "model.norm={kind: bn}", "--output-dir", tmp_path / "runs"
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "diverged" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "diverged"
    assert "the loss is not finite at step" in status["reason"]


@pytest.mark.usefixtures("fork_server")
def test_two_processes_on_one_run_directory(config: Path, tmp_path: Path) -> None:
    arguments = [
        "run",
        config,
        "model.norm={kind: bn}",
        "recipe.epochs=50",
        "--output-dir",
        tmp_path / "runs",
    ]
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "runs").glob("*/status.json")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        second = command_line.shiftbench(*arguments)
        assert second.returncode == 2
        assert "another process is training this run" in second.stderr
    finally:
        first.terminate()
        assert first.wait(timeout=100) == 75
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "status.json").read_text())["state"] == "preempted"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a full disk needs a tmpfs of its own: run as root where mounting is allowed")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


@pytest.mark.usefixtures("fork_server")
def test_a_disk_that_is_full_refuses_or_fails_the_run_and_says_so(config: Path, small_disk: Path) -> None:
    one = ["run", config, "model.norm={kind: bn}", "--output-dir", small_disk / "runs"]
    # A megabyte is enough for the record but not for a checkpoint: the run fails, and its record says why.
    done = command_line.shiftbench(*one)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "No space left on device" in done.stdout
    (folder,) = (small_disk / "runs").iterdir()
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "failed"
    assert "No space left on device" in status["reason"]
    assert not list((folder / "checkpoints").glob("*"))
    # With no byte left it does not begin.
    with (small_disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _free_bytes(small_disk))
    refused = command_line.shiftbench(*one)
    assert refused.returncode == 2
    assert "cannot be written: No space left on device" in refused.stderr


def test_a_read_only_output_folder_is_refused(config: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = command_line.shiftbench("run", config, "--output-dir", small_disk / "runs")
    assert refused.returncode == 2
    assert "cannot be written: Read-only file system" in refused.stderr


def test_ranks_train_the_runs_in_turn_and_skip_them_afterwards(
    config: Path, tmp_path: Path, fork_server: Path
) -> None:
    """With torchrun's variables; the ranks of test_fork_server.py are those of torchrun itself."""

    def on_two_ranks(log: Path) -> str:
        arguments = ("run", str(config), "batch.batch_size_per_gpu=8", "--output-dir", str(tmp_path / "runs"))
        process = ForkedProcess(fork_server, ProcessSpec("jobs.cli", arguments, os.environ, log, ranks=2))
        assert process.wait(250) == 0, log.read_text()
        return log.read_text()

    said = on_two_ranks(tmp_path / "first.txt")
    assert said.count("2 completed, 0 were complete, 0 did not complete") == 1
    for folder in (tmp_path / "runs").iterdir():
        assert json.loads((folder / "status.json").read_text())["state"] == "completed"
        assert json.loads((folder / "provenance.jsonl").read_text())["world_size"] == 2
        assert "epoch 1 of 1: top-1" in (folder / "log.txt").read_text()
    again = on_two_ranks(tmp_path / "again.txt")
    assert "0 completed, 2 were complete, 0 did not complete" in again


def test_ranks_of_torchrun_start_no_processes_of_their_own(config: Path) -> None:
    ranks = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    refused = command_line.shiftbench("run", config, "--ranks", 2, **ranks)
    assert refused.returncode == 2
    assert "2 have been started already" in refused.stderr


def test_a_run_of_another_version_is_one_sentence(config: Path, tmp_path: Path) -> None:
    (run,) = load_experiment(config, ["model.norm={kind: bn}"]).runs
    with RecordWriter(run, tmp_path / "run") as writer:
        path = writer.paths.run
    path.write_text(path.read_text().replace('"seed"', '"sead"'))
    command = [sys.executable, "-m", "jobs.local.worker", str(path.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "run.json is not a run of this version: sead: unknown key; did you mean 'seed'?" in done.stderr
    assert "Traceback" not in done.stderr
