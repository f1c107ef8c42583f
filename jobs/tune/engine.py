"""Starts or joins Ray for a study, and ends it with the study."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from suite.errors import UserError

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
    "RAY_worker_niceness": "0",  # else runs would have a low priority too
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver ends runs and jobs in its own order
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial without any measurement is a result too
    "TUNE_GLOBAL_CHECKPOINT_S": "30",  # for readers of Tune's folder: nothing is restored from it
    "TUNE_WARN_THRESHOLD_S": "5",
}


def import_ray() -> None:
    """Sets what Ray reads when it is imported, and imports it. Raises UserError where it is not installed."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        with _without_torch():
            import ray.tune  # noqa: F401
            import tensorboardX  # noqa: F401 - Tune's logger would import it, and it torch
    except ImportError:
        raise UserError("Ray Tune is not installed: pip install 'shiftbench[tune]'") from None


@contextmanager
def _without_torch() -> Iterator[None]:
    """Inside, importing torch fails. TensorBoard's writer imports it for types that we never log."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


@contextmanager
def ray_running(
    address: str | None,
    at_a_time: int,
    num_gpus: int,
    handling_signals: Callable[[], AbstractContextManager[None]],
    on_death: Callable[[], None],
) -> Iterator[None]:
    """Starts a Ray with one slot for each trial, or joins the one at `address`. Ends it afterwards.

    `handling_signals` restores the caller's signal handlers, which Ray replaces. `on_death` is called in
    another thread when Ray's processes have died: Ray's own calls would wait for them for a minute, and then
    end this process. Raises UserError when Ray cannot be started or joined.
    """
    import ray

    if address is not None:
        _check_reachable(address)
    else:
        _check_ports(PORTS_OF_RAY + PORTS_OF_A_WORKER * at_a_time)
    try:
        if address is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",  # not the one that RAY_ADDRESS or another user's session points to
                num_cpus=at_a_time,
                num_gpus=num_gpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
    except SystemExit:  # Ray raises it on SIGTERM while it starts
        ray.shutdown()
        raise
    except Exception as error:  # Ray has no common class of errors
        with suppress(Exception):
            ray.shutdown()
        what = "started" if address is None else f"joined at {address}"
        raise UserError(f"Ray could not be {what}: {_first_line(error)}") from error
    is_over = threading.Event()
    watch = threading.Thread(target=_watch, args=(_parts(), is_over, on_death), daemon=True)
    watch.start()
    with handling_signals():
        try:
            yield
        finally:
            is_over.set()
            watch.join()
            ray.shutdown()


def _parts() -> list[int]:
    """The processes without which a Ray that we started cannot work; none of a Ray that we joined."""
    return [pid for pid in map(int, _children()) if _state(pid)[0] in ("gcs_server", "raylet")]


def _children() -> list[str]:
    me = os.getpid()
    lists = (path.read_text().split() for path in Path(f"/proc/{me}/task").glob("*/children"))
    return [pid for found in lists for pid in found]


def _state(pid: int) -> tuple[str, str]:
    """A process's name and the letter of its state; both empty when it is gone."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return "", ""
    return head.partition("(")[2], tail.split()[0]


def _watch(pids: Sequence[int], is_over: threading.Event, on_death: Callable[[], None]) -> None:
    """Calls `on_death` once a process is gone: a signal to the group, as Slurm sends it, ends Ray too."""
    while not is_over.wait(1.0):
        if any(_state(pid)[1] in ("", "Z", "X") for pid in pids):
            on_death()
            return


def _check_ports(wanted: int) -> None:
    """Raises UserError without free ports. Ray itself would wait for minutes and blame something else."""
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
    """Raises UserError at once. Ray itself would try for many minutes."""
    host, separator, port = address.rpartition(":")
    if address == "auto":
        return
    if not separator or not port.isdigit() or "/" in host:
        raise UserError(f"ray_address {address!r}: expected host:port of a Ray cluster's head, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"Ray could not be joined at {address}: {error}") from None


def trial_slots(is_joined: bool, ranks: int, uses_gpus: bool) -> Mapping[str, float]:
    """Returns what a trial takes of Ray: one slot of a Ray that we started, else a core for each rank; and a
    GPU for each rank where there are GPUs. Raises UserError when no node has that.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    wanted = {"cpu": ranks if is_joined else 1, "gpu": ranks if uses_gpus and has_gpus else 0}
    if not any(node.get("CPU", 0) >= wanted["cpu"] and node.get("GPU", 0) >= wanted["gpu"] for node in nodes):
        largest = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
        raise UserError(
            f"a trial takes {wanted['cpu']} CPUs and {wanted['gpu']} GPUs of one node of the Ray cluster, "
            f"whose nodes have {'; '.join(sorted(set(largest)))}"
        )
    return wanted


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class DriverOnly:
    """Mixin of objects that serve one driver: Tune pickles its set-up to restore it, and these as empty."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
