"""The worker processes of the torchvision loader, and the shared memory through which they give batches."""

import atexit
import multiprocessing.context
import multiprocessing.popen_fork
import os
import signal
import tempfile
import threading
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from suite.data.auto import installed
from suite.experiment import DetectionSpec, Run
from suite.signals import signal_when_parent_ends, stop_signals_blocked
from suite.specs.loader_table import LOADERS
from suite.specs.source_table import SOURCES

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED_BATCHES = 2  # by each worker
# One more is being trained on.
_HELD_BATCHES = 1
END_S = 5.0
# Of a socket, without the names that multiprocessing adds: /pymp-12345678/listener-12345678.
LONGEST_FOLDER = 107 - 32


class _KilledPopen(multiprocessing.popen_fork.Popen):
    """A started process that is killed where others are terminated, as at the end of Python."""

    def terminate(self) -> None:
        """Kill: SIGTERM is blocked, and does not reach a stopped process."""
        self.kill()


def _expect_dead_workers() -> None:
    """Restore SIGCHLD's default: torch's handler would raise for each worker that Python's end kills."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


# Runs before multiprocessing's own function, which ends the workers and was registered before.
atexit.register(_expect_dead_workers)


class Worker(multiprocessing.context.ForkProcess):
    """A process that decodes images until its parent ends it, or has ended.

    A signal to the process group, or to all processes of a job, asks the training process to write a
    checkpoint: it still needs its batches then.
    """

    def start(self) -> None:
        with stop_signals_blocked():
            super().start()

    def run(self) -> None:
        signal_when_parent_ends(signal.SIGKILL)
        if len(os.fsencode(tempfile.gettempdir())) > LONGEST_FOLDER:
            tempfile.tempdir = "/tmp"  # no tensor could be given through a socket in TMPDIR
        super().run()

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> _KilledPopen:
        return _KilledPopen(process_obj)


class Workers(multiprocessing.context.ForkContext):
    """The context by which torch's DataLoader starts `Worker` processes; `kill` ends those it started."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[Worker] = []

    def Process(self, *arguments: Any, **options: Any) -> Worker:  # type: ignore[override]
        self._started.append(Worker(*arguments, **options))
        return self._started[-1]

    def kill(self) -> None:
        for worker in self._started:
            worker.kill()

    def join_killed(self) -> None:
        """Wait for the end of killed workers, for each of which torch's signal handler raises an error."""
        for worker in self._started:
            with suppress(RuntimeError):
                worker.join(END_S)


def shared_memory_needed(
    images_per_batch: int, image_size: int, num_workers: int, num_batches: int | None = None
) -> int:
    """Return how many bytes the batches of classification take at most, float32 with 3 channels.

    `num_batches`: of the loader; None: without end.
    """
    return held_batches(num_workers, num_batches) * images_per_batch * 3 * image_size**2 * 4


def held_batches(num_workers: int, num_batches: int | None) -> int:
    """Return the number of batches that workers prefetch and the one in use."""
    held = PREFETCHED_BATCHES * num_workers + _HELD_BATCHES
    return held if num_batches is None else min(held, num_batches)


def shared_memory_of_run(run: Run) -> int:
    """Return how many bytes of shared memory each rank of a run takes at most; 0 if its loader takes none.

    At the end of an epoch there are two loaders: that of the training images keeps what it has prefetched.
    """
    has_files = run.data.name not in SOURCES or not SOURCES[run.data.name].generator
    if not (has_files and LOADERS[installed(run.data.loader)].shares_memory):
        return 0
    workers = 2 * run.system.data_threads
    if isinstance(run.task, DetectionSpec):  # as bytes, without masks
        pixels = run.task.min_size * run.task.max_size
        return held_batches(workers, None) * run.batch.per_gpu * 3 * pixels
    return shared_memory_needed(run.batch.per_gpu, run.data.image_size, workers)


def shared_memory_shortage(needed_bytes: int, *, is_idle: bool = False) -> str | None:
    """Return why batches of so many bytes do not fit into the shared memory, or None.

    `is_idle`: count what other processes use now as free. Where its size is not known nothing is reported.
    """
    try:
        system = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    total_bytes, free_bytes = system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize
    if needed_bytes <= (total_bytes if is_idle else free_bytes):
        return None
    has = f"{SHARED_MEMORY} has {total_bytes / 2**20:.0f} MiB, of which {free_bytes / 2**20:.0f} are free"
    needs = f"the batches of the torchvision loader's workers need {needed_bytes / 2**20:.0f} MiB there"
    return f"{has}; {needs}: enlarge it (docker run --shm-size, or mount -o remount,size=), {need_less()}"


def need_less() -> str:
    """Return what makes the loaders of a run need less shared memory; DALI needs none."""
    dali = ", or set data.loader=dali" if installed("auto") == "dali" else ""
    return f"{'' if dali else 'or '}lower batch.batch_size_per_gpu or system.data_threads{dali}"
