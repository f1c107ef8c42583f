"""Clusters: which files are valid, and the exact sbatch scripts that they give."""

import os
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster import sbatch
from jobs.cluster.clusters import LocalCluster, SlurmCluster, load_cluster, parse_cluster, time_s
from suite.config import load_experiment
from suite.errors import UserError
from suite.experiment import check_batches
from tests.helpers.srun import with_srun

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden"


def slurm(**keys: Any) -> SlurmCluster:
    cluster = parse_cluster({"scheduler": "slurm", "name": "mine", **keys}, "mine.yaml")
    assert isinstance(cluster, SlurmCluster)
    return cluster


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "clusters").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_cluster_that_we_ship(path: Path) -> None:
    cluster = load_cluster(path.stem)
    assert cluster == load_cluster(str(path))
    assert path.read_text().startswith("# ")
    assert isinstance(cluster, LocalCluster if path.stem == "local" else SlurmCluster)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("12:00:00", 43_200),
        ("2-0", 172_800),
        ("1-02:30", 95_400),
        ("1-02:30:15", 95_415),
    ],
)
def test_time_is_read_as_sbatch_reads_it(text: str, seconds: int) -> None:
    assert time_s(text) == seconds


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"partitoin": "gpu"}, "partitoin: unknown key; did you mean 'partition'?"),
        ({"time": 1.5}, "time: expected text"),
        ({"time": "tomorrow"}, "expected sbatch's form"),
        ({"time": "2:30"}, "less than 60 s are left to train"),
        ({"nodes": 0}, "nodes: expected a whole number ≥ 1, got 0"),
        ({"nodes": True}, "nodes: expected a whole number ≥ 1, got true"),
        ({"mem": "lots"}, "mem: "),
        ({"gpus_per_node": 4, "ntasks_per_node": 2}, "a rank takes one GPU"),
        ({"partition": "a\n#SBATCH --uid=0"}, "partition must be one line"),
        ({"setup": ["module load x\nrm y"]}, "setup.0 must be one line"),
        ({"environment": {"A B": "1"}}, "'A B' is not the name of an environment variable"),
        ({"additional_parameters": {"array": "0-3"}}, "array is set by shiftbench itself"),
        ({"additional_parameters": {"ntasks-per-node": 2}}, "is a key of the cluster itself"),
        ({"additional_parameters": {"test_only": True}}, "shiftbench could not follow its jobs"),
        ({"additional_parameters": {"clusters": "other"}}, "clusters cannot be used"),
        ({"additional_parameters": {"container-image": "x"}}, "say container: {image: …} instead"),
        ({"additional_parameters": {"x y": 2}}, "is not the long name of an option"),
    ],
)
def test_an_invalid_cluster_is_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        slurm(**keys)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("mine.yaml: ")


@pytest.mark.parametrize("config", ["imagenet-small-batch", "imagenet-resnet50"])
def test_our_experiments_fit_our_gpu_cluster(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    runs = load_experiment(ROOT / "configs" / "experiments" / f"{config}.yaml").runs
    check_batches(runs, load_cluster("gpu").ranks)


def test_an_unknown_cluster_and_an_unknown_scheduler() -> None:
    with pytest.raises(UserError, match=r"no cluster 'mars'.*gpu, local, test"):
        load_cluster("mars")
    with pytest.raises(UserError, match="scheduler: expected local or slurm, got 'pbs'"):
        parse_cluster({"scheduler": "pbs"}, "mine.yaml")


CASES: dict[str, tuple[int, dict[str, Any], str | None]] = {
    "one-run": (1, {}, ()),
    "array": (12, {"array_parallelism": 3, "time": "1-00:00:00", "partition": "gpu", "mem": "64G"}, ()),
    "two-nodes": (
        2,
        {
            "nodes": 2,
            "gpus_per_node": 8,
            "cpus_per_task": 12,
            "account": "a b",
            "qos": "high",
            "constraint": "h100|a100",
            "exclude": "n[3,7]",
            "array_parallelism": 1,
            "additional_parameters": {"exclusive": True, "mail_type": "END", "hold": False},
            "setup": ["module load cuda"],
            "environment": {"NCCL_DEBUG": "WARN", "ODD": "$(touch x) 'y'"},
            "python": "/opt/my python/bin/python",
        },
        ("17",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sbatch_script(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Golden files: read them when they change."""
    runs, keys, after = CASES[name]
    with_srun(monkeypatch, tmp_path)
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    folder = Path("/runs/it's/.shiftbench/me/demo-00000000")
    script = sbatch.script(runs, slurm(**keys), folder, Path("/runs/code/abc"), after)
    path = GOLDEN / f"{name}.sh"
    assert script == path.read_text(), "\n" + script


def test_a_percent_sign_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_srun(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="Slurm reads % in a path as a pattern"):
        sbatch.script(1, slurm(), Path("/runs/50%/x"), Path("/code"))


def test_without_submitits_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="srun is not on the PATH"):
        sbatch.script(1, slurm(), Path("/runs/x"), Path("/code"))


def test_the_environment_does_not_overrule_the_clusters_file(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"SLURM_CONF": "/etc/slurm.conf", "HOME": "/home/me"}
    hidden = {"SBATCH_PARTITION": "debug", "SLURM_JOB_ID": "3", "SRUN_DEBUG": "1", "RANK": "0"}
    for name, value in {**kept, **hidden}.items():
        monkeypatch.setenv(name, value)
    with sbatch.outside_any_job():
        assert not hidden.keys() & os.environ.keys()
        assert kept.items() <= os.environ.items()
    assert hidden.items() <= os.environ.items()


def test_the_ranks_of_a_run() -> None:
    assert slurm(nodes=2, ntasks_per_node=3).ranks == 6
    assert slurm(nodes=2, gpus_per_node=8).ranks == 16
    assert slurm().ranks == 1
