"""`shiftbench doctor` on a real Slurm, healthy and with one planted fault after the other."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
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
        """(verdict, found, mend) of each check; the worst where a check has several."""
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
        assert all(bool(f["mend"]) == (f["verdict"] != "ok") for f in findings)
        return {f["check"]: (f["verdict"], f["found"], f["mend"]) for f in findings}


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


@contextmanager
def configured(change: Callable[[str], str]) -> Iterator[None]:
    """The cluster with another slurm.conf."""
    before = testcluster.CONF.read_text()
    changed = change(before)
    assert changed != before
    try:
        testcluster.CONF.write_text(changed)
        run("scontrol", "reconfigure")
        yield
    finally:
        testcluster.CONF.write_text(before)
        run("scontrol", "reconfigure")


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
    report = doctor("--data", images(tmp_path / "images"), nodes=3, cpus_per_task=1)
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
    assert "3 nodes" in report["process group"][1]
    assert [path.name for path in (tmp_path / "runs" / ".shiftbench").glob("doctor-*")] == []
    assert "shiftbench-doctor" not in run("squeue", "--noheader", "--format=%j")


# ---------------------------------------------------------------- faults that the login machine sees


def test_an_unknown_partition(doctor: Doctor) -> None:
    report = doctor(partition="gpu")
    verdict, found, mend = report["partition"]
    assert (verdict, doctor.exit_code) == ("problem", 1)
    assert "gpu" in found
    assert "main, urgent" in mend
    assert report["sbatch --test-only"][0] == "problem"
    assert report["nodes' own view"][0] == "unknown"  # a job that is refused is not tried


def test_a_partition_that_is_down(doctor: Doctor) -> None:
    with updated("PartitionName=urgent", "State=DOWN", "State=UP"):
        verdict, found, mend = doctor("--no-nodes", partition="urgent")["partition"]
    assert verdict == "problem"
    assert "DOWN" in found
    assert "scontrol update PartitionName=urgent State=UP" in mend
    assert doctor("--no-nodes", partition="urgent")["partition"][0] == "ok"


def test_more_time_than_the_partition_gives(doctor: Doctor) -> None:
    with updated("PartitionName=urgent", "MaxTime=30", "MaxTime=UNLIMITED"):
        verdict, found, mend = doctor("--no-nodes", partition="urgent", time="31")["time"]
        assert doctor("--no-nodes", partition="urgent", time="30")["time"][0] == "ok"
    assert verdict == "problem"
    assert "MaxTime=00:30:00" in found
    assert "time: '00:30:00'" in mend


def test_an_account_without_an_association(doctor: Doctor) -> None:
    verdict, found, mend = doctor("--no-nodes", account="astronomy")["account"]
    assert verdict == "problem"
    assert "astronomy" in found
    assert "research" in mend
    assert "sacctmgr add user root account=astronomy" in mend


def test_an_unknown_qos(doctor: Doctor) -> None:
    verdict, _, mend = doctor("--no-nodes", qos="express")["qos"]
    assert verdict == "problem"
    assert "normal" in mend


def test_gpus_that_no_node_has(doctor: Doctor) -> None:
    verdict, found, mend = doctor("--no-nodes", gpus_per_node=2)["GPUs of the nodes"]
    assert verdict == "problem"
    assert "none" in found
    assert "gpus_per_node" in mend
    assert "gres.conf" in mend


def test_more_nodes_cores_and_memory_than_there_are(doctor: Doctor) -> None:
    report = doctor("--no-nodes", nodes=5, cpus_per_task=5, mem="4001M")
    assert problems(report) >= {"nodes", "CPUs", "mem"}
    assert "nodes: 4" in report["nodes"][2]
    assert "cpus_per_task: 4" in report["CPUs"][2]
    assert "mem: 4000M" in report["mem"][2]


def test_a_drained_node(doctor: Doctor) -> None:
    with updated("NodeName=n4", "State=DRAIN Reason=planted", "State=RESUME"):
        verdict, found, mend = doctor("--no-nodes", nodes=4)["nodes"]
    assert verdict == "problem"
    assert "n4" in found
    assert "State=RESUME" in mend


def test_settings_that_cost_runs_their_restarts(doctor: Doctor) -> None:
    def change(conf: str) -> str:
        conf = conf.replace("SlurmctldParameters=preempt_send_user_signal\n", "")
        conf = conf.replace("JobRequeue=1", "JobRequeue=0").replace("KillWait=20", "KillWait=5")
        return conf.replace("MaxArraySize=1001", "MaxArraySize=1")

    with configured(change):
        report = doctor("--no-nodes")
    planted = {
        "preempt_send_user_signal": "SlurmctldParameters=preempt_send_user_signal",
        "KillWait": "KillWait=30",
        "MaxArraySize": "MaxArraySize=1001",
    }
    for check, remedy in planted.items():
        assert report[check][0] == "warning", check
        assert remedy in report[check][2]
    assert report["JobRequeue"][:2] == (
        "ok",
        "0: only jobs that ask for it are started again; shiftbench's do (--requeue)",
    )
    assert doctor.exit_code == 0  # runs are trained all the same


def test_preemption_that_cancels(doctor: Doctor) -> None:
    with updated("PartitionName=main", "PreemptMode=CANCEL GraceTime=0", "PreemptMode=REQUEUE GraceTime=20"):
        report = doctor("--no-nodes")
        of_urgent = doctor("--no-nodes", partition="urgent")
    assert report["preemption"][0] == "warning"
    assert "PreemptMode=REQUEUE for PartitionName=main" in report["preemption"][2]
    assert "shiftbench retry" in report["preemption"][2]
    assert report["preempt_send_user_signal"][0] == "warning"
    assert "GraceTime=120" in report["preempt_send_user_signal"][2]
    assert of_urgent["preemption"][0] == "ok"  # nobody is above it


def test_a_key_that_is_demanded(doctor: Doctor) -> None:
    with configured(lambda conf: conf.replace("Enforce=limits", "Enforce=limits,wckeys\nTrackWCKey=yes")):
        verdict, found, mend = doctor("--no-nodes")["wckey"]
    assert verdict == "problem"
    assert "demanded" in found
    assert "additional_parameters: {wckey:" in mend


def test_accounting_that_does_not_answer(doctor: Doctor) -> None:
    testcluster.stop("slurmdbd")
    try:
        report = doctor("--no-nodes")
    finally:
        testcluster.up()
    assert report["sacct"][0] == "warning"
    assert "start slurmdbd" in report["sacct"][2]
    assert report["account"][0] == "unknown"
    assert doctor.exit_code == 0


def test_a_controller_that_does_not_answer(doctor: Doctor) -> None:
    testcluster.stop("slurmctld")
    try:
        report = doctor()
    finally:
        testcluster.up()
    assert report["controller"][0] == "problem"
    assert "scontrol ping" in report["controller"][2]
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
        _, found, mend = report[check]
        assert said in found
        assert "n1" not in found
        assert remedy in mend
    assert report["/dev/shm"][0] == "warning"
    assert report["process group"][0] == "ok"


@needs_mounts
def test_a_first_node_that_another_cannot_reach(doctor: Doctor, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost n2 n3 {os.uname().nodename}\n")  # and no n1
    python = other_machine(tmp_path / "bin" / "python", f"mount --bind {hosts} /etc/hosts", node="n3")
    report = doctor(python=str(python), nodes=3, additional_parameters={"nodelist": "n[1-3]"})
    assert problems(report) == {"names of nodes", "first node's port"}
    assert report["first node's port"][1].startswith("n3: n1:")
    assert "names of nodes" in report["first node's port"][2]
    assert report["process group"][0] == "unknown"  # not tried, or all would wait for the one


@needs_mounts
def test_an_output_folder_that_nodes_cannot_write(doctor: Doctor, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    python = other_machine(
        tmp_path / "bin" / "python", f"mount --bind {runs} {runs}", f"mount -o remount,ro,bind {runs}"
    )
    report = doctor(python=str(python), jobs_folder=str(tmp_path / "jobs"))
    verdict, found, mend = report["output folder"]
    assert verdict == "problem"
    assert "cannot be written" in found
    assert "--output-dir" in mend


def test_an_interpreter_without_our_packages(doctor: Doctor, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    report = doctor(python=str(tmp_path / "bare" / "bin" / "python"))
    verdict, found, mend = report["packages"]
    assert verdict == "problem"
    assert "torch, torchvision, nvidia-dali-cuda130" in found
    assert "not installed" in found
    assert report["DALI"][0] == report["process group"][0] == "unknown"
    assert "pip install" in mend
    assert "python:" in mend


def test_an_interpreter_that_is_not_there(doctor: Doctor) -> None:
    verdict, found, mend = doctor(python="/opt/nowhere/python")["python"]
    assert verdict == "problem"
    assert "/opt/nowhere/python" in found
    assert "python: in the cluster's file" in mend
    assert doctor.exit_code == 1


@needs_mounts
def test_a_jobs_folder_that_nodes_do_not_see(doctor: Doctor, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    again = f'unshare --mount bash -c "mount -t tmpfs none {jobs}; $BASH_EXECUTION_STRING"'
    report = doctor(setup=[f'[ -n "$AGAIN" ] || AGAIN=1 exec {again}'], jobs_folder=str(jobs))
    verdict, found, mend = report["jobs folder"]
    assert verdict == "problem"
    assert str(jobs) in found
    assert "jobs_folder: in the cluster's file" in mend
    assert "python" not in report


def test_no_node_free(doctor: Doctor, tmp_path: Path) -> None:
    script = tmp_path / "fill"
    script.write_text("#!/bin/bash\nsleep 600\n")
    job = run("sbatch", "--parsable", "-N4", "--ntasks=16", "--output=/dev/null", str(script)).strip()
    try:
        wait_for("the nodes to be busy", lambda: "RUNNING" in run("squeue", "-h", "-j", job, "-o", "%T"))
        verdict, found, mend = doctor("--wait", 3)["nodes' own view"]
    finally:
        run("scancel", job)
    assert verdict == "unknown"
    assert "no node was free in 3 s" in found
    assert "--wait" in mend
    assert doctor.exit_code == 0
