"""A Ray for the drivers of a test module, which join it: its servers cost as much as a driver each time."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import psutil

from jobs.local.fork_client import starter_of
from jobs.local.process import ProcessSpec, end
from jobs.tune.engine import OBJECT_STORE_BYTES, import_ray
from suite.files import write_atomically
from tests.helpers.shared_server import ROOT, drivers_path
from tests.helpers.stand_in import stand_in

CPUS = 4
START_S, LEAVE_S = 120.0, 60.0
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
# Ray's other variables are as its users have them.
STARTS = 3
VARIABLES = {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


class SharedRay:
    """A Ray that runs, at `address`. Drivers with another home need its `variables`."""

    def __init__(self, pid: int, address: str, home: Path) -> None:
        self.process, self.address = psutil.Process(pid), address
        # Ray keeps the key that its drivers need in the home of the user who started it.
        token = home / ".ray" / "auth_token"
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}

    def parts(self) -> dict[int, str]:
        """Return process ids and names of its servers."""
        return {pid: name for pid, name in self._processes() if name in ("gcs_server", "raylet")}

    def wait_until_unused(self) -> None:
        """Wait until nothing is left of a driver, also of one that was killed."""
        _wait("unused", lambda: not self._workers(), LEAVE_S)

    def _workers(self) -> list[str]:
        return [name for _, name in self._processes() if name.startswith("ray::") and name not in AGENTS]

    def _processes(self) -> Iterator[tuple[int, str]]:
        for one in self.process.children(recursive=True):
            try:
                yield one.pid, one.name()
            except psutil.NoSuchProcess:
                continue


@contextmanager
def shared_ray(folder: Path) -> Iterator[SharedRay]:
    """Start a Ray, with ports and a folder of its own. It ends with the block, and with this process."""
    file = folder / "ray"
    environment = {**os.environ, **stand_in(), **VARIABLES, "HOME": str(folder)}
    spec = ProcessSpec("tests.helpers.shared_ray", (str(file),), environment, folder / "ray.log")
    with chdir(ROOT):
        process = starter_of(drivers_path())(spec)
    try:
        _wait("up", lambda: file.exists() or process.poll() is not None, START_S)
        assert process.poll() is None, spec.log.read_text()
        pid, address = file.read_text().split()
        yield SharedRay(int(pid), address, folder)
        os.kill(int(pid), signal.SIGTERM)  # alone: it ends its servers soon
        process.wait(LEAVE_S)
    finally:
        end([process])


def _wait(what: str, is_so: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"after {timeout_s:.0f} s the shared Ray is not {what}"
        time.sleep(0.1)


def main() -> int:
    """Hold a Ray until SIGTERM. The file that the argument names then contains its process and address."""
    import_ray()
    import ray

    own = {"num_cpus": CPUS, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    for attempt in range(STARTS):
        try:
            context = ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, **own)
            break
        except Exception:  # a plain one: Ray waits for half a minute, which a busy machine may exceed
            ray.shutdown()
            if attempt == STARTS - 1:
                raise
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    write_atomically(Path(sys.argv[1]), f"{os.getpid()} {context.address_info['gcs_address']}\n")
    try:
        signal.pause()
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
