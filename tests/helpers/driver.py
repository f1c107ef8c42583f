"""Drivers of `shiftbench tune` as processes: forks of a server that has imported Ray, or fresh Pythons."""

import contextlib
import gc
import importlib
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.local.fork_client import ForkedProcess, starter_of
from jobs.local.process import PlainProcess, ProcessSpec
from jobs.tune.engine import import_ray
from suite.large_imports import collecting_no_garbage
from tests.helpers.shared_server import ROOT, drivers_path

# What `shiftbench tune` imports, also when it writes the study's answers.
MODULES = ("jobs.cli", "jobs.tune.driver", "reports.collect", "reports.write.study_answers")


class Driver:
    """A driver, which leads a session of its own. What happens to it harms no other one."""

    def __init__(
        self, *arguments: object, environment: Mapping[str, str], folder: Path, is_fresh: bool = False
    ) -> None:
        """`folder`: where the file with its output goes. `is_fresh`: as a Python of its own."""
        handle, path = tempfile.mkstemp(prefix="driver-", suffix=".log", dir=folder)
        os.close(handle)
        self.log = Path(path)
        spec = ProcessSpec("jobs.cli", ("tune", *map(str, arguments)), environment, self.log)
        with contextlib.chdir(ROOT):
            self._process = (PlainProcess if is_fresh else starter_of(drivers_path()))(spec)
        process: Any = self._process
        self.pid: int = process._pids[0] if isinstance(process, ForkedProcess) else process.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the driver alone."""
        os.kill(self.pid, number)

    def send_to_group(self, number: signal.Signals) -> None:
        """Send a signal to the driver and to what it has started, as Slurm and a terminal do."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """End the driver alone by SIGKILL."""
        self.send(signal.SIGKILL)
        self._process.wait(60)

    def said(self) -> str:
        """Return what it has printed."""
        return self.log.read_text()

    def end(self, expect: int = 0, timeout_s: float = 600) -> str:
        """Wait for its end with this exit code. Returns what it has printed."""
        code = self._process.wait(timeout_s)
        assert code == expect, self.said()
        return self.said()


def preload() -> None:
    """Import what a driver needs, for the session's server. No thread is started."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import_ray()
    with collecting_no_garbage():
        for name in MODULES:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
