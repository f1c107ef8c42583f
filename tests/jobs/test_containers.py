"""Containers of a cluster's file: what is refused, what is mounted, and the scripts."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cluster import sbatch
from jobs.cluster.clusters import SlurmCluster, parse_cluster
from jobs.cluster.container import RUNTIMES
from jobs.cluster.inside import inside_of
from suite.config import expand
from suite.errors import UserError
from suite.experiment import Run
from tests.helpers.command_line import shiftbench
from tests.helpers.srun import with_srun

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden"
IMAGE = "docker://pytorch/pytorch"


def slurm(container: dict[str, Any], **keys: Any) -> SlurmCluster:
    container = {"image": IMAGE, "runtime": "apptainer", **container}
    cluster = parse_cluster(
        {"scheduler": "slurm", "name": "mine", "container": container, **keys}, "mine.yaml"
    )
    assert isinstance(cluster, SlurmCluster)
    return cluster


def run_of(**data: Any) -> Run:
    data = {"name": "mine", "path": "/data/mine", "num_classes": 10, **data}
    return expand({"model": {"arch": "small_resnet11"}, "data": data}, "x").runs[0]


@pytest.mark.parametrize(
    ("container", "sentence"),
    [
        ({"runtime": "docker"}, "container.runtime: expected pyxis or apptainer, got 'docker'"),
        ({"mount": []}, "container.mount: unknown key; did you mean 'mounts'?"),
        ({"image": "mine.sif"}, "container.image: expected a path that begins with /, ~ or $NAME, or"),
        (
            {"image": "mine.sqsh", "runtime": "pyxis"},
            "such as nvcr.io#nvidia/pytorch:26.10-py3, got 'mine.sqsh'",
        ),
        ({"image": "./mine", "runtime": "pyxis"}, "container.image: expected a path that begins with /"),
        (
            {"mounts": ["/data"]},
            "container.mounts: expected SRC:DST or SRC:DST:ro with paths that begin with /",
        ),
        ({"mounts": ["data:/data"]}, "got 'data:/data'"),
        ({"mounts": ["/a:/b:rw"]}, "got '/a:/b:rw'"),
        ({"mounts": ["/a,b:/b"]}, "container.mounts: apptainer cannot mount a path with ',', got '/a,b'"),
        (
            {"mounts": ["/a b:/b"], "runtime": "pyxis"},
            "container.mounts: pyxis cannot mount a path with a blank",
        ),
        ({"python": "python3\nrm"}, "must be one line"),
        ({"gpus": "intel"}, "container.gpus: expected nvidia or amd, got 'intel'"),
    ],
)
def test_an_invalid_container_is_refused(container: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        slurm(container)
    assert str(refused.value).startswith("mine.yaml: container")
    assert sentence in str(refused.value)


def test_the_interpreter_is_the_images() -> None:
    with pytest.raises(
        UserError, match=r"python: the jobs run the image's, container\.python; remove python"
    ):
        slurm({}, python="/opt/python")


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pyxis": (
        {"runtime": "pyxis", "image": "nvcr.io#nvidia/pytorch:26.10-py3", "mounts": ["/scratch:/scratch"]},
        {"nodes": 2, "setup": ["module load cuda"], "environment": {"NCCL_DEBUG": "WARN"}},
    ),
    "apptainer": (
        {"image": "$IMAGES/it's.sif", "mounts": ["/opt/site:/opt/site:ro"], "python": "/opt/py/bin/python"},
        {"gpus_per_node": 8, "cpus_per_task": 12, "environment": {"PYTHONPATH": "/own", "A": "b c"}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_script_for_a_container(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Golden files: read them when they change."""
    with_srun(monkeypatch, tmp_path)
    monkeypatch.setenv("SHIFTBENCH_DATA_DIR", "/home/me/.cache/shiftbench/data")
    container, keys = CASES[name]
    cluster = slurm(container, **keys)
    runs = [run_of(path="$IMAGENET/packs", stage="$TMPDIR"), run_of(path="/scratch/mine")]
    runs.append(
        expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "x").runs[0]
    )
    folder, code = Path("/jobs/me/demo-00000000"), Path("/jobs/me/code/abc")
    inside = inside_of(cluster, runs, (Path("/runs"), folder), folder, code)
    script = sbatch.script(1, cluster, folder, code, inside=inside)
    path = GOLDEN / f"{name}.sh"
    assert script == path.read_text(), "\n" + script
    # bash reads it: no word is left open.
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("maker", "gpus", "option"), [("nvidia", 4, "--nv"), ("amd", 4, "--rocm"), ("amd", None, "")]
)
def test_apptainer_shows_the_gpus_that_are_asked_for(maker: str, gpus: int | None, option: str) -> None:
    cluster = slurm({"gpus": maker}, gpus_per_node=gpus)
    inside = inside_of(cluster, (), (), Path("/w"), Path("/code"))
    assert inside is not None
    words = inside.options(cluster)
    assert [word for word in words if word in ("--nv", "--rocm")] == list(filter(None, [option]))
    assert words[-1] == IMAGE


def mounts_of(cluster: SlurmCluster, *runs: Run, output_dir: str = "/runs") -> list[str]:
    inside = inside_of(cluster, runs, (Path(output_dir),), Path("/work"), Path("/runs/me/code/abc"))
    assert inside is not None
    return [str(mount) for mount in inside.mounts if not mount.source.endswith("/indexes")]


def test_a_path_is_mounted_once() -> None:
    assert mounts_of(slurm({}), run_of(path="/runs/data"), run_of(path="/d/x"), run_of(path="/d/x")) == [
        "/runs:/runs",
        "/d/x:/d/x:ro",
    ]
    given = slurm({"mounts": ["/d:/d:ro", "/other:/runs"]})
    # What is read-only, or something else inside, does not serve for the runs.
    assert mounts_of(given, run_of(path="/d/x")) == ["/d:/d:ro", "/other:/runs", "/runs:/runs"]
    assert mounts_of(given, run_of(path="/d/x", stage="/d/stage"))[2:] == ["/runs:/runs", "/d/stage:/d/stage"]


def test_the_list_of_a_folders_files_outlives_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTBENCH_DATA_DIR", "/home/me/data")
    lists = Path("/home/me/data/indexes")

    def inside(*runs: Run, **keys: Any) -> tuple[tuple[Path, ...], str | None, list[str]]:
        found = inside_of(slurm({}, **keys), runs, (), Path("/w"), Path("/code"))
        assert found is not None
        variable = found.variables.get("SHIFTBENCH_DATA_DIR")
        return found.folders, variable, [str(mount) for mount in found.mounts if "/home" in mount.source]

    assert inside(run_of()) == ((lists,), "/home/me/data", [f"{lists}:{lists}"])
    uncropped = {"crop_area": [1, 1], "flip": False, "eval_resize": 224}
    assert inside(run_of(name="mnist", loader="memory", **uncropped)) == ((), None, [])
    own = {"SHIFTBENCH_DATA_DIR": "/scratch/data"}  # which its `mounts` may name
    assert inside(run_of(), environment=own) == ((), None, [])


def test_a_relative_path_is_found_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    inside = inside_of(slurm({}), [run_of(path="data/x")], (), Path("/work"), Path("/code"))
    assert inside is not None
    assert inside.workdir == tmp_path
    assert f"{tmp_path}/data/x:{tmp_path}/data/x:ro" in map(str, inside.mounts)


def test_an_inner_mount_comes_behind_the_outer_one() -> None:
    cluster = slurm({"mounts": ["/fast:/runs/fast"]})
    inside = inside_of(cluster, (), (Path("/runs"),), Path("/runs"), Path("/runs/code"))
    assert inside is not None
    assert "/runs:/runs,/fast:/runs/fast" in inside.options(cluster)


def test_no_read_only_mount_hides_the_staging_folder() -> None:
    """$TMPDIR may be /scratch/job-1."""
    cluster = slurm({"mounts": ["/scratch:/scratch:ro"]})
    inside = inside_of(cluster, [run_of(path="/d", stage="$TMPDIR")], (), Path("/w"), Path("/code"))
    assert inside is not None
    (bound,) = (word for word in inside.options(cluster) if "/scratch" in word)
    assert bound.split(",")[-1] == '"${TMPDIR:?}":"${TMPDIR:?}"'


def test_an_output_folder_that_cannot_be_mounted() -> None:
    with pytest.raises(
        UserError, match=r"cluster mine: container\.mounts: apptainer cannot mount a path with ':'"
    ):
        mounts_of(slurm({}), output_dir="/runs/at 12:00")


def submitted(folder: Path, image: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """`shiftbench submit` to a cluster with this image; sbatch must not be called."""
    content = {"scheduler": "slurm", "container": {"image": image, "runtime": "apptainer"}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    config = ROOT / "configs" / "experiments" / "demo.yaml"
    where = ("--cluster", folder / "mine.yaml", "--output-dir", folder / "runs")
    return shiftbench("submit", config, "seeds=[0]", "model.norm=bn", *where, *options)


def test_an_image_that_is_missing_ends_the_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.cluster.slurm_commands.config", dict)
    with_srun(monkeypatch, tmp_path)
    image = tmp_path / "mine.sif"
    sentence = (
        f"cluster mine: container.image: {image} does not exist: name one that this machine and the nodes"
    )
    for options in ((), ("--dry-run",)):
        done = submitted(tmp_path, str(image), *options)
        assert done.returncode == 2
        assert sentence in done.stderr
    assert not list((tmp_path / "runs").glob("demo*"))  # all undone
    image.touch()
    done = submitted(tmp_path, str(image), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "not checked" not in done.stdout
    assert f" {image} /usr/bin/env " in done.stdout
    done = submitted(tmp_path, IMAGE, "--dry-run")
    assert f"not checked: container.image: {IMAGE}: a registry's image" in done.stdout


def test_the_table_of_runtimes_says_how_each_is_found() -> None:
    assert all((one.program is None) != (one.srun_option is None) for one in RUNTIMES.values())
    assert os.sep not in "".join(one.program or "" for one in RUNTIMES.values())
