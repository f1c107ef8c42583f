"""The test cluster itself: it starts once, and ends without ending anything else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import testcluster

# A cluster of its own for each worker, beside those of the other tests.
NUMBER = str(50 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))
FOLDER = Path(f"/var/lib/shiftbench-cluster-{NUMBER}")


def call(action: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, testcluster.__file__, action]
    env = os.environ | {"SHIFTBENCH_TEST_CLUSTER": NUMBER}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)


@pytest.fixture
def own() -> Iterator[None]:
    if reason := testcluster.obstacle():
        pytest.skip(f"NO SLURM: the test cluster cannot run here: {reason}")
    yield
    call("down")


def others_hosts() -> list[str]:
    lines = testcluster.HOSTS.read_text().splitlines()
    return [line for line in lines if testcluster.HOSTS_MARK not in line]


def lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started() -> dict[str, str]:
    return {path.stem: path.read_text() for path in FOLDER.glob("*.started")}


def test_up_twice_and_down(own: None) -> None:
    hosts = others_hosts()
    assert call("status").returncode == 1
    assert call("up").returncode == 0
    first = started()
    assert len(first) == 8
    again = call("up")
    assert f"export SLURM_CONF={FOLDER}/slurm.conf" in again.stdout
    assert started() == first
    assert call("status").stdout == "up\n"

    # A process that has reused a daemon's id is not that daemon.
    (FOLDER / "slurmd-n4.started").write_text(str(os.getpid()))
    assert call("status").stdout == "down\n"
    with subprocess.Popen(["sleep", "60"]) as decoy:
        (FOLDER / "slurmd-n4.started").write_text(str(decoy.pid))
        real = first.pop("slurmd-n4")
        os.kill(int(real), signal.SIGKILL)
        assert call("down").returncode == 0
        assert decoy.poll() is None
        decoy.kill()
    assert not FOLDER.exists()
    assert not [name for name, pid in first.items() if lives(pid)]
    assert call("down").returncode == 0
    if not any(path.is_dir() for path in FOLDER.parent.glob("shiftbench-cluster*")):
        assert testcluster.HOSTS_MARK not in testcluster.HOSTS.read_text()
    assert others_hosts() == hosts


def test_an_unknown_action_is_refused() -> None:
    done = call("upp")
    assert (done.returncode, done.stderr) == (2, "usage: testcluster.py up | down | status\n")


def test_what_to_type_next_can_be_pasted_as_a_whole(tmp_path: Path) -> None:
    """Into any folder of a shell without the virtual environment; `--help` keeps it from submitting."""
    if not (Path(sys.executable).parent / "shiftbench").exists():
        pytest.skip("NOT INSTALLED: no command `shiftbench` beside this Python")
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    pasted = f"{testcluster.instructions()} --help\n"
    done = subprocess.run(["bash", "-e"], input=pasted, cwd="/", env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "shiftbench submit" in done.stdout
