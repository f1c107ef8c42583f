"""What sites write into a cluster's file, and what it becomes in the script of a job."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from jobs.cluster import sbatch
from jobs.cluster.clusters import SlurmCluster, load_cluster
from jobs.doctor.partition import mib
from suite.errors import UserError
from tests.helpers.srun import with_srun


def loaded(folder: Path, text: str) -> SlurmCluster:
    (folder / "site.yaml").write_text(f"scheduler: slurm\n{text}\n")
    cluster = load_cluster(str(folder / "site.yaml"))
    assert isinstance(cluster, SlurmCluster)
    return cluster


def lines_of(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    with_srun(monkeypatch, folder)
    return sbatch.script(1, cluster, Path("/runs/x"), Path("/code")).splitlines()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gpus_per_node: a100:4", "#SBATCH --gpus-per-node=a100:4"),
        ("gpus_per_node: 1g.5gb:2", "#SBATCH --gpus-per-node=1g.5gb:2"),
        ("gpus_per_node: '4'", "#SBATCH --gpus-per-node=4"),
        ("mem: 64g", "#SBATCH --mem=64g"),
        ("mem: 0", "#SBATCH --mem=0"),
        ("mem: 64000", "#SBATCH --mem=64000"),
        ("account: 4711", "#SBATCH --account=4711"),
        ("time: 12:00:00", "#SBATCH --time=720"),
        ("time: 90", "#SBATCH --time=90"),
        ("additional_parameters: {time-min: 12:00:00}", "#SBATCH --time-min=12:00:00"),
        ("environment: {OMP_NUM_THREADS: 4}", "export OMP_NUM_THREADS=4"),
        ("setup: ['export A=${HOME}/x:${B:-${C}} $D']", "export A=${HOME}/x:${B:-${C}} $D"),
        (
            "setup: ['echo ${#A} ${A%%x} ${A[0]} $(date +%s) ${oc.env:SITE}']",
            "echo ${#A} ${A%%x} ${A[0]} $(date +%s) at-home",
        ),
        ("setup: ['echo \\${A}']", "echo ${A}"),
    ],
)
def test_what_sites_write(text: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SITE", "at-home")
    assert line in lines_of(loaded(tmp_path, text), monkeypatch, tmp_path)


def test_typed_gpus_are_counted(tmp_path: Path) -> None:
    cluster = loaded(tmp_path, "gpus_per_node: a100:4\nnodes: 2")
    assert (cluster.ranks, cluster.tasks_per_node, cluster.num_gpus) == (8, 4, 4)
    assert mib("64g") == mib("64G") == mib("65536") == 65_536
    assert mib("0") == 0


@pytest.mark.parametrize(
    ("python", "command"),
    [
        ("python3", "python3"),
        ("~/venv/bin/python", "~/venv/bin/python"),
        ("~me/my env/bin/python", "~me/'my env/bin/python'"),
        ("$VENV/bin/python", '"${VENV:?}"/bin/python'),
        ("${VENV}/bin/python", '"${VENV:?}"/bin/python'),
        ("apptainer exec --nv img.sif python3", "apptainer exec --nv img.sif python3"),
        ("/usr/bin/env python3", "/usr/bin/env python3"),
        ("apptainer exec '$HOME/my img.sif' python", "apptainer exec \"${HOME:?}\"'/my img.sif' python"),
        ("/opt/x; rm y", "'/opt/x;' rm y"),
        ("$(touch x)", "'$(touch' 'x)'"),
    ],
)
def test_the_interpreter(python: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = loaded(tmp_path, f"python: {yaml.safe_dump(python).strip()}")
    (srun,) = (line for line in lines_of(cluster, monkeypatch, tmp_path) if line.startswith("srun"))
    assert f" {command} -u -m jobs.cluster.start_task" in srun


def test_the_shell_of_a_job_finds_the_interpreter(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "py").write_text('#!/bin/sh\necho "<$*>"\n')
    (tmp_path / "a b" / "py").chmod(0o755)
    env = {"HOME": str(tmp_path), "VENV": str(tmp_path / "a b"), "PATH": os.environ["PATH"]}
    for python in ("~/a b/py", "$VENV/py", "env '${VENV}/py'", f"'{tmp_path}/a b/py'"):
        command = ["bash", "-c", f"{sbatch.shell_words(python)} -u 'x y'"]
        assert subprocess.run(command, env=env, capture_output=True, text=True).stdout == "<-u x y>\n", python
    done = subprocess.run(["bash", "-c", sbatch.shell_words("$NOT_SET/py")], env=env, capture_output=True)
    assert done.returncode != 0
    assert b"NOT_SET" in done.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "gpus_per_node: 0",
            "gpus_per_node: expected a whole number ≥ 1, or a type and a number, such as a100:4",
        ),
        ("gpus_per_node: a100:0", "gpus_per_node: expected"),
        ("gpus_per_node: 1:30", "gpus_per_node: expected"),
        ("gpus_per_node: gpu:a100:4", "gpus_per_node: expected"),
        ("gpus_per_node: a100:4\nntasks_per_node: 2", "ntasks_per_node: a rank takes one GPU"),
        ("mem: 1.5G", "mem: expected text, or null (memory of each node, such as 64G"),
        ("mem: all", "mem: expected text, or null (memory"),
        ("mem: -1", "mem: expected text, or null (memory"),
        ('python: "py \'thon"', "python: a quote is not closed"),
        ("python: ''", "python: expected an interpreter"),
        ("jobs_folder: $NOT_SET_HERE/jobs", "jobs_folder: the environment variable NOT_SET_HERE is not set"),
        (
            "jobs_folder: ${NOT_SET_HERE}/jobs",
            "jobs_folder: the environment variable NOT_SET_HERE is not set",
        ),
        ("jobs_folder: ~no-such-user/jobs", "jobs_folder: that home is not known"),
        (
            "environment: {PATH: '${HOME}/bin'}",
            "environment.PATH: '${HOME}/bin' cannot be resolved; ${oc.env:NAME}",
        ),
        ("setup: module load x", "setup: expected a list, each item text, got 'module load x'"),
        ("setup: off", "setup: expected a list"),
        ("environment: []", "environment: expected a mapping, each value text"),
        (
            "additional_parameters: {nice: 1.5}",
            "additional_parameters.nice: expected text, or a whole number, or",
        ),
        ("nodes: 010", "nodes: 010 has a leading zero"),
        ("time: 1:99999999999999999999", "time: expected sbatch's form"),
        ("model: {arch: x}\nscheduler2: 1", "model: unknown key"),
    ],
)
def test_what_a_site_cannot_mean(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        loaded(tmp_path, text)
    assert "site.yaml:" in str(refused.value)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "",
            "expected a mapping with the keys of a cluster (scheduler, partition, …); the file is empty",
        ),
        ("model: {arch: x}", "site.yaml: model: this is an experiment, but a cluster is expected here"),
        ("experiment: x\nspace: {}", "site.yaml: space: this is a study, but a cluster is expected here"),
        ("nodes: 2", "site.yaml: scheduler: missing; expected local or slurm"),
    ],
)
def test_a_file_that_is_no_cluster(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_cluster(str(tmp_path / "site.yaml"))
    assert sentence in str(refused.value)


@pytest.mark.parametrize("name", ["", "x" * 300, "a b", "x" * 5000])
def test_a_cluster_that_does_not_exist(name: str) -> None:
    with pytest.raises(UserError, match=r"no cluster '.*one of gpu, local, test"):
        load_cluster(name)
