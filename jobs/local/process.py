"""Processes of this machine behind one interface: fresh Pythons here, forks of a server in `fork_client`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

GRACE_S = 30.0


@dataclass(frozen=True)
class ProcessSpec:
    """A process that calls a module's `main()` in a session of its own, as `python -m MODULE ARGUMENTS` does.

    `environment` is the complete one. stdin is empty; stdout and stderr are appended to `log`. With `ranks`
    above one, that many processes run `main()`, each with torchrun's variables.
    """

    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    ranks: int = 1


class RunProcess(Protocol):
    """A process that was started, by whatever means. Signals are negative exit codes, as in subprocess."""

    @property
    def returncode(self) -> int | None:
        """The exit code that the last `poll` or `wait` found."""

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired after `timeout` seconds."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every process of the session, if the process still runs."""


StartProcess = Callable[[ProcessSpec], RunProcess]


class PlainProcess:
    """A fresh Python, or torchrun with fresh Pythons as ranks. Raises OSError when it cannot be started."""

    def __init__(self, spec: ProcessSpec) -> None:
        command = [spec.module, *spec.arguments]
        if spec.ranks > 1:
            torchrun = ["jobs.local.torchrun", "--standalone", f"--nproc-per-node={spec.ranks}", "-m"]
            command = [*torchrun, *command]
        with spec.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the launcher alone, which stops its runs in good order.
            self._popen = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(spec.environment),
                start_new_session=True,
            )

    @property
    def returncode(self) -> int | None:
        return self._popen.returncode

    def poll(self) -> int | None:
        return self._popen.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self._popen.wait(timeout)

    def send(self, number: signal.Signals) -> None:
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, number)


def end(processes: Sequence[RunProcess], grace_s: float = GRACE_S) -> None:
    """Send SIGTERM, so that runs write a checkpoint; kill what still runs after `grace_s` seconds."""
    for process in processes:
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send(signal.SIGKILL)
            process.wait()
