"""Starts or joins Ray for a study, and ends it with the study."""

import importlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from suite.errors import UserError
from suite.large_imports import importing_large_packages

# Ray's shared memory for objects. Trials use next to none of it; this is the least that Ray accepts.
OBJECT_STORE_BYTES = 80 * 2**20
CONNECT_S = 5.0
PORTS_OF_RAY, PORTS_OF_A_WORKER = 8, 2
VARIABLES = {
    "RAY_AIR_NEW_OUTPUT": "0",  # no tables of Tune's between our lines
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of an experiment are relative to where it was started
    "RAY_USAGE_STATS_ENABLED": "0",
    # A run whose driver is gone writes a checkpoint first; the kernel signals it.
    "RAY_kill_child_processes_on_worker_exit": "0",
    # Tune's trials have an environment of their own, so they would not take workers started beforehand.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",  # else runs would have a low priority too
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver ends runs and jobs in its own order
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial without any measurement is a result too
    "TUNE_GLOBAL_CHECKPOINT_S": "30",  # for readers of Tune's folder: nothing is restored from it
    "TUNE_WARN_THRESHOLD_S": "5",
}

UNUSED = ("torch", "mlflow", "wandb", "comet_ml")
# Modules that Tune imports later, and which import the unused ones where they are installed.
IMPORTERS = (
    "tensorboardX",
    "ray.air.integrations.comet",
    "ray.air.integrations.mlflow",
    "ray.air.integrations.wandb",
)


@dataclass(frozen=True)
class RayOptions:
    """The Ray of a study: the one at `address`, or one to start with a slot for each trial at a time."""

    address: str | None
    at_a_time: int
    uses_gpus: bool
    num_gpus: int


def import_ray() -> None:
    """Set what Ray reads when it is imported, and import it. Raises UserError where it is not installed."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    # What is None here cannot be imported. These take seconds, and a study uses none of them.
    modules: dict[str, Any] = sys.modules
    for name in UNUSED:
        modules.setdefault(name, None)
    try:
        with importing_large_packages():
            import ray.tune  # noqa: F401

            for name in IMPORTERS:
                importlib.import_module(name)
    except ImportError:
        raise UserError("Ray Tune is not installed: pip install 'shiftbench[tune]'") from None
    finally:
        for name in UNUSED:
            if modules[name] is None:
                del modules[name]


@contextmanager
def ray_running(
    options: RayOptions,
    handling_signals: Callable[[], AbstractContextManager[None]],
    on_death: Callable[[], None],
) -> Iterator[None]:
    """Start or join a Ray. Ends it, or leaves it, afterwards.

    `handling_signals` restores the caller's signal handlers, which Ray replaces. `on_death` is called in
    another thread when Ray's processes have died: Ray's own calls would wait for them for a minute, and then
    end this process. Raises UserError when Ray cannot be started or joined.
    """
    import ray

    # "local": not the one that RAY_ADDRESS or another user's session points to.
    address, own = options.address or "local", {}
    if options.address is not None:
        _check_reachable(address)
    else:
        _check_ports(PORTS_OF_RAY + PORTS_OF_A_WORKER * options.at_a_time)
        own = {"num_cpus": options.at_a_time, "num_gpus": options.num_gpus, "include_dashboard": False}
        own["object_store_memory"] = OBJECT_STORE_BYTES
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except SystemExit:  # Ray raises it on SIGTERM while it starts
        ray.shutdown()
        raise
    except Exception as error:  # Ray has no common class of errors
        with suppress(Exception):
            ray.shutdown()
        what = "started" if options.address is None else f"joined at {address}"
        why = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        if "AF_UNIX" in str(error) or "socket path" in str(error).lower():
            why += "; set RAY_TMPDIR to a folder with a short path that exists, such as /tmp"
        raise UserError(f"Ray could not be {what}: {why}") from error
    # The processes without which a Ray that we started cannot work; none of a Ray that we joined.
    ours = [one for one in psutil.process_iter(["name", "ppid"]) if one.info["ppid"] == os.getpid()]
    parts = [one for one in ours if one.info["name"] in ("gcs_server", "raylet")]
    is_over = threading.Event()
    watch = threading.Thread(target=_watch, args=(parts, is_over, on_death), daemon=True)
    watch.start()
    with handling_signals():
        try:
            yield
        finally:
            is_over.set()
            watch.join()
            ray.shutdown()


def _watch(parts: Sequence[psutil.Process], is_over: threading.Event, on_death: Callable[[], None]) -> None:
    """Call `on_death` once a process is gone: a signal to the group, as Slurm sends it, ends Ray too."""
    while not is_over.wait(1.0):
        try:
            states = {part.status() for part in parts}
        except psutil.NoSuchProcess:
            states = {psutil.STATUS_DEAD}
        if states & {psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE}:
            on_death()
            return


def _check_ports(wanted: int) -> None:
    """Raise UserError without free ports. Ray itself would wait for minutes and blame something else."""
    with ExitStack() as stack:
        for number in range(wanted):
            one = stack.enter_context(socket.socket())
            try:
                one.bind(("", 0))
            except OSError as error:
                raise UserError(
                    f"Ray needs some {wanted} free ports on this machine, and there are {number}: "
                    f"{error.strerror}; see /proc/sys/net/ipv4/ip_local_port_range"
                ) from None


def _check_reachable(address: str) -> None:
    """Raise UserError at once. Ray itself would try for many minutes."""
    host, separator, port = address.rpartition(":")
    if address == "auto":
        return
    if not separator or not port.isdigit() or "/" in host:
        raise UserError(f"ray_address {address!r}: expected host:port of a Ray cluster's head, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"Ray could not be joined at {address}: {error}") from None


def trial_slots(options: RayOptions, ranks: int) -> Mapping[str, float]:
    """Return what a trial takes of Ray: one slot of a Ray that we started, else a core for each rank; and a
    GPU for each rank where there are GPUs. Raises UserError when no node has that.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    wanted = {"cpu": ranks if options.address else 1, "gpu": ranks if options.uses_gpus and has_gpus else 0}
    if not any(node.get("CPU", 0) >= wanted["cpu"] and node.get("GPU", 0) >= wanted["gpu"] for node in nodes):
        largest = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
        raise UserError(
            f"a trial takes {wanted['cpu']} CPUs and {wanted['gpu']} GPUs of one node of the Ray cluster, "
            f"whose nodes have {'; '.join(sorted(set(largest)))}"
        )
    return wanted


class DriverOnly:
    """Mixin of objects that serve one driver: Tune pickles its set-up to restore it, and these as empty."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
