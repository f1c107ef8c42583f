"""Single daemons of the test cluster, and Slurm's commands on it. Uses only the standard library."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.cluster_files import COMMANDS, CONF, FOLDER

TIMEOUT_S = 180.0  # of a busy machine


class ClusterError(Exception):
    """The cluster cannot be brought up here; the message says why."""


def environment() -> dict[str, str]:
    """Return the environment in which Slurm's commands find this cluster."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return os.environ | {"SLURM_CONF": str(CONF), "PATH": path}


def run(*command: str, check: bool = True) -> str:
    """Return the output of one of Slurm's commands on this cluster. Raises ClusterError."""
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if check and done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def is_done(*command: str) -> bool:
    """Return whether one of Slurm's commands succeeds."""
    return subprocess.run(command, env=environment(), capture_output=True).returncode == 0


def pid_of(name: str) -> int | None:
    """Return the process id of a daemon that `start` started; None if it has ended."""
    try:
        pid = int((FOLDER / f"{name}.started").read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    # The process id may have been reused, for example after a reboot.
    is_ours = [a.decode(errors="replace") for a in arguments[:-1]] == COMMANDS[name] and is_of_ours(pid)
    return pid if is_ours and state != "Z" else None


def is_of_ours(pid: int) -> bool:
    """Return whether a process has this cluster's configuration in its environment."""
    try:
        return f"SLURM_CONF={CONF}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def start(name: str) -> None:
    """Start a daemon in a session of its own, unless it runs."""
    if pid_of(name) is not None:
        return
    with (FOLDER / f"{name}.out").open("ab") as log:
        process = subprocess.Popen(
            COMMANDS[name],
            env=environment(),
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (FOLDER / f"{name}.started").write_text(str(process.pid))


def stop(name: str, number: signal.Signals = signal.SIGTERM) -> None:
    """End a daemon and wait until it is gone."""
    pid = pid_of(name)
    if pid is not None:
        os.kill(pid, number)
        try:
            wait_for(f"the end of {name}", lambda: pid_of(name) is None, timeout_s=20)
        except ClusterError:
            os.kill(pid, signal.SIGKILL)
            wait_for(f"the end of {name}", lambda: pid_of(name) is None)
    (FOLDER / f"{name}.started").unlink(missing_ok=True)


def wait_for(what: str, is_there: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Poll until a condition holds. Raises ClusterError when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not is_there():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout_s:.0f} s for {what}; the logs are in {FOLDER}")
        time.sleep(0.1)
