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

THREADS = "OMP_NUM_THREADS"
GRACE_S = 30.0
_TORCHRUN = ("-c", "from jobs.local.worker import torchrun; torchrun()", "--standalone")


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

    def send_signal(self, sig: int) -> None:
        """Send a signal to every process of the session, if the process still runs."""


StartProcess = Callable[[ProcessSpec], RunProcess]


class PlainProcess(subprocess.Popen[bytes]):
    """A fresh Python, or torchrun with fresh Pythons as ranks. Raises OSError when it cannot be started."""

    def __init__(self, spec: ProcessSpec) -> None:
        torchrun = [*_TORCHRUN, f"--nproc-per-node={spec.ranks}"] if spec.ranks > 1 else []
        with spec.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the launcher alone, which stops its runs in good order.
            super().__init__(
                [sys.executable, *torchrun, "-m", spec.module, *spec.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(spec.environment),
                start_new_session=True,
            )

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.killpg(self.pid, sig)


def end(processes: Sequence[RunProcess], grace_s: float = GRACE_S) -> None:
    """Send SIGTERM, so that runs write a checkpoint; kill what still runs after `grace_s` seconds."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
