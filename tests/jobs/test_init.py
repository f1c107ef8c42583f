"""`shiftbench init`: what it writes is what the other commands take."""

import runpy
import shutil
from pathlib import Path

import pytest

from jobs.cluster.clusters import load_cluster
from suite.config import load_experiment
from suite.data.pack_writer import sources_of, write_pack
from tests.helpers.command_line import shiftbench


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(folder: Path, classes: int) -> Path:
    for split in ("train", "val"):
        for label in range(classes):
            (folder / split / f"class-{label}").mkdir(parents=True)
    return folder


def test_imagenet_needs_only_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    done = shiftbench("init", "imagenet")
    assert done.stdout.splitlines()[:3] == [
        *("written: experiment.yaml", "written: cluster.yaml"),
        "next: export IMAGENET=/path/to/imagenet",
    ]
    monkeypatch.delenv("IMAGENET", raising=False)
    unset = shiftbench("config", "show", "experiment.yaml")
    assert unset.returncode == 2
    assert "set IMAGENET or data.path" in unset.stderr
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    runs = load_experiment("experiment.yaml").runs
    assert {(run.model.norm.label, run.batch.norm) for run in runs} == {
        *(("BN", 2), ("BN", 32), ("XBN-P2-GN64", 2), ("XBN-P2-GN64", 32))
    }
    assert load_cluster("cluster.yaml").scheduler == "slurm"
    again = shiftbench("init", "imagenet")
    assert again.returncode == 2
    assert "experiment.yaml: exists already" in again.stderr


def test_the_two_files_of_each_kit_work_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = images(tmp_path / "flowers", 2)
    monkeypatch.setenv("IMAGENET", str(data))
    monkeypatch.setattr("jobs.cluster.slurm_commands.config", dict)
    assert shiftbench("init", "imagenet", "--into", "imagenet").returncode == 0
    assert shiftbench("init", "folder", "--into", "folder", "--data", data).returncode == 0
    for kit, gpus in (("imagenet", 8), ("folder", 1)):
        pair = (f"{kit}/experiment.yaml", "--cluster", f"{kit}/cluster.yaml")
        dry = shiftbench("submit", *pair, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert f"#SBATCH --gpus-per-node={gpus}\n" in dry.stdout
    # As docs/clusters.md scales it.
    cell = ("model.norm=bn", "batch.norm_batch_size=16", "batch.batch_size_per_gpu=16")
    dry = shiftbench("scale", pair[0], *cell, *pair[1:], "--nodes", "1,2,4", "--dry-run")
    assert dry.returncode == 0, dry.stderr


def test_a_folder_of_images_is_entered_with_its_classes(tmp_path: Path) -> None:
    data = images(tmp_path / "flowers: #1", 3)
    assert shiftbench("init", "folder", "--into", "study", "--data", data).returncode == 0
    run = load_experiment("study/experiment.yaml").runs[0]
    assert (run.data.name, run.data.path, run.data.num_classes) == ("flowers: #1", str(data), 3)


def test_a_pack_is_entered_with_its_classes(tmp_path: Path) -> None:
    data = images(tmp_path / "loose", 3)
    for number, folder in enumerate(sorted(data.glob("*/*"))):
        (folder / f"{number}.jpg").write_bytes(b"no image, and packed as it is")
    pack = write_pack(*sources_of(data), tmp_path / "flowers").folder
    assert shiftbench("init", "folder", "--into", "study", "--data", pack).returncode == 0
    run = load_experiment("study/experiment.yaml").runs[0]
    assert (run.data.name, run.data.path, run.data.num_classes) == ("flowers", str(pack), 3)
    shutil.rmtree(data / "val")
    half = write_pack(*sources_of(data), tmp_path / "half").folder
    assert "half: is a pack without val" in shiftbench("init", "--data", half).stderr


def test_without_data_the_placeholder_is_named() -> None:
    done = shiftbench("init")
    assert "Fill in data.path and data.num_classes" in done.stdout
    assert "missing; replace the placeholder" in shiftbench("config", "show", "experiment.yaml").stderr


def test_data_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "has no folder train/" in shiftbench("init", "--data", tmp_path).stderr
    assert (
        "has 1 classes; expected two or more"
        in shiftbench("init", "--data", images(tmp_path / "one", 1)).stderr
    )
    assert "is for `shiftbench init folder`" in shiftbench("init", "imagenet", "--data", tmp_path).stderr
    assert not Path("experiment.yaml").exists()


def test_the_script_for_an_own_model_runs(capsys: pytest.CaptureFixture[str]) -> None:
    shiftbench("init", "own-model")
    runpy.run_path("own_model.py", run_name="__main__")
    printed = capsys.readouterr().out
    assert "layer4.1.bn2" in printed
    assert "with XBN (untrained)" in printed
