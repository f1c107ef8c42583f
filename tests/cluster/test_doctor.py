"""`shiftbench doctor` on a real Slurm, healthy and with one planted fault after the other."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.cluster import testcluster
from tests.cluster.testcluster import run, wait_for
from tests.helpers.cells import needs_mounts

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(900)]

Report = dict[str, tuple[str, str, str]]


class Doctor:
    """The command, for a cluster's file of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exit_code = -1

    def __call__(self, *options: object, **keys: Any) -> Report:
        """(verdict, found, fix) of each check; the worst where a check has several."""
        file = self.folder / "mine.yaml"
        file.write_text(yaml.safe_dump({"scheduler": "slurm", "partition": "main", "time": "60", **keys}))
        command = [sys.executable, "-m", "jobs.cli", "doctor", "--json", "--cluster", str(file)]
        command += ["--output-dir", str(self.folder / "runs"), *map(str, options)]
        # Longer than the doctor's own patience, so that it can say what it waited for.
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=700)
        assert done.stderr == ""
        self.exit_code = done.returncode
        ranking = ["ok", "unknown", "warning", "problem"]
        findings = sorted(
            map(json.loads, done.stdout.splitlines()), key=lambda f: ranking.index(f["verdict"])
        )
        assert all(bool(f["fix"]) == (f["verdict"] != "ok") for f in findings)
        return {f["check"]: (f["verdict"], f["found"], f["fix"]) for f in findings}


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


@contextmanager
def updated(what: str, planted: str, healthy: str) -> Iterator[None]:
    """The cluster with one of its parts changed by scontrol."""
    run("scontrol", "update", what, *planted.split())
    try:
        yield
    finally:
        run("scontrol", "update", what, *healthy.split())


def images(folder: Path) -> Path:
    for split in ("train", "val"):
        (folder / split / "cat").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / split / "cat" / "0.jpg")
    return folder


def problems(report: Report) -> set[str]:
    return {check for check, (verdict, _, _) in report.items() if verdict == "problem"}


# ---------------------------------------------------------------- all is well


def test_a_healthy_cluster_has_no_problem(doctor: Doctor, tmp_path: Path) -> None:
    report = doctor("--data", images(tmp_path / "images"), "--bandwidth", nodes=2, cpus_per_task=1)
    assert {check: report[check] for check in problems(report)} == {}
    assert doctor.exit_code == 0
    assert {check for check, (verdict, _, _) in report.items() if verdict == "unknown"} == set()
    asked = {
        *("version", "partition", "time", "nodes", "account", "wckey", "sacct", "MaxArraySize", "JobRequeue"),
        *("preemption", "preempt_send_user_signal", "sbatch --test-only", "names of nodes", "free ports"),
        *("first node's port", "output folder", "locks", "clocks", "/dev/shm", "packages", "GPUs", "DALI"),
        *("data", "process group", "jobs folder"),
    }
    assert asked <= report.keys()
    assert "2 nodes" in report["process group"][1]
    assert "2 ranks of two nodes, gloo: " in report["bandwidth between nodes"][1]
    assert report["bandwidth in a node"][1].startswith("one rank on each node")
    assert "MB/s" in report["read rate"][1]
    assert [path.name for path in (tmp_path / "runs" / ".shiftbench").glob("doctor-*")] == []
    assert "shiftbench-doctor" not in run("squeue", "--noheader", "--format=%j")


# ---------------------------------------------------------------- faults that the login machine sees


def test_an_unknown_partition(doctor: Doctor) -> None:
    report = doctor(partition="gpu")
    verdict, found, fix = report["partition"]
    assert (verdict, doctor.exit_code) == ("problem", 1)
    assert "gpu" in found
    assert "main, urgent" in fix
    assert report["sbatch --test-only"][0] == "problem"
    assert report["nodes' own view"][0] == "unknown"  # a job that is refused is not tried


def test_slurms_own_words_for_what_an_administrator_changed(doctor: Doctor) -> None:
    """The judges' tests plant these words in recorded answers: here Slurm itself writes them."""
    drained, healthy = "State=DRAIN Reason=planted", "State=RESUME"
    cancels, requeues = (
        "PreemptMode=CANCEL GraceTime=0 MaxTime=30",
        "PreemptMode=REQUEUE GraceTime=20 MaxTime=UNLIMITED",
    )
    with (
        updated("NodeName=n4", drained, healthy),
        updated("PartitionName=main", cancels, requeues),
        updated("PartitionName=urgent", "State=DOWN", "State=UP"),
    ):
        report = doctor("--no-nodes", nodes=4, time="31", qos="express", account="astronomy")
        assert "urgent is DOWN" in doctor("--no-nodes", partition="urgent")["partition"][1]
    assert "MaxTime=00:30:00" in report["time"][1]
    assert "n4 (drained)" in report["nodes"][1]
    assert report["preemption"][1].startswith("CANCEL by jobs of urgent")
    assert "GraceTime is 0" in report["preempt_send_user_signal"][1]
    assert problems(report) >= {"time", "nodes", "account", "qos", "sbatch --test-only"}
    assert doctor.exit_code == 1


def test_daemons_that_do_not_answer(doctor: Doctor) -> None:
    testcluster.stop("slurmdbd")
    try:
        without_accounting = doctor("--no-nodes")
        exit_code = doctor.exit_code
        testcluster.stop("slurmctld")
        report = doctor()
    finally:
        testcluster.up()
    assert without_accounting["sacct"][0] == "warning"
    assert without_accounting["account"][0] == "unknown"
    assert exit_code == 0  # runs train all the same
    assert report["controller"][0] == "problem"
    assert "nodes" not in report
    assert doctor.exit_code == 1


# ---------------------------------------------------------------- faults that only the nodes see


def other_machine(path: Path, *lines: str, node: str = "") -> Path:
    """An interpreter in mounts of its own, changed by `lines`, as if its node were another machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    only = f'[ "$SLURMD_NODENAME" = {node} ] || exec {sys.executable} "$@"\n' if node else ""
    inner = "; ".join(lines)
    path.write_text(
        f'#!/bin/bash\n{only}exec unshare --mount bash -ec \'{inner}; exec {sys.executable} "$@"\' -- "$@"\n'
    )
    path.chmod(0o755)
    return path


@needs_mounts
def test_a_node_that_is_another_world(doctor: Doctor, tmp_path: Path) -> None:
    data, runs, hosts = images(tmp_path / "images"), tmp_path / "runs", tmp_path / "hosts"
    runs.mkdir()
    hosts.write_text(f"127.0.0.1 localhost n1 n2 {os.uname().nodename}\n")  # and no n3
    python = other_machine(
        tmp_path / "bin" / "python",
        f"mount --bind {hosts} /etc/hosts",
        f"mount -t tmpfs none {runs}",
        f"mount -t tmpfs none {data}",
        "mount -t tmpfs -o size=64m none /dev/shm",
        node="n2",
    )
    keys = {"nodes": 3, "additional_parameters": {"nodelist": "n[1-3]"}}
    report = doctor("--data", data, python=str(python), jobs_folder=str(tmp_path / "jobs"), **keys)
    assert problems(report) == {"names of nodes", "output folder", "data"}, report
    for check, said, remedy in (
        ("names of nodes", "n2: n3 is not resolved", "/etc/hosts"),
        ("output folder", "n2: No such file", "--output-dir"),
        ("data", "n2: train: No such file", "data.path"),
        ("/dev/shm", "n2: 64 MiB", "--shm-size"),
    ):
        _, found, fix = report[check]
        assert said in found
        assert "n1" not in found
        assert remedy in fix
    assert report["/dev/shm"][0] == "warning"
    assert report["process group"][0] == "ok"


@needs_mounts
def test_a_jobs_folder_that_nodes_do_not_see(doctor: Doctor, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    again = f'unshare --mount bash -c "mount -t tmpfs none {jobs}; $BASH_EXECUTION_STRING"'
    report = doctor(setup=[f'[ -n "$AGAIN" ] || AGAIN=1 exec {again}'], jobs_folder=str(jobs))
    verdict, found, fix = report["jobs folder"]
    assert verdict == "problem"
    assert str(jobs) in found
    assert "jobs_folder: in the cluster's file" in fix
    assert "python" not in report


def test_no_node_free(doctor: Doctor, tmp_path: Path) -> None:
    script = tmp_path / "fill"
    script.write_text("#!/bin/bash\nsleep 600\n")
    job = run("sbatch", "--parsable", "-N4", "--ntasks=16", "--output=/dev/null", str(script)).strip()
    try:
        wait_for("the nodes to be busy", lambda: "RUNNING" in run("squeue", "-h", "-j", job, "-o", "%T"))
        verdict, found, fix = doctor("--wait", 3)["nodes' own view"]
    finally:
        run("scancel", job)
    assert verdict == "unknown"
    assert "no node was free in 3 s" in found
    assert "--wait" in fix
    assert doctor.exit_code == 0
