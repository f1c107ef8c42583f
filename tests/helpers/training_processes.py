"""Real training processes that stop themselves at a chosen step by a real signal."""

import os
import signal
import threading
from pathlib import Path

from suite.experiment import Run
from suite.paths import RunPaths
from tests.helpers.ranks import free_port, in_processes, rank_environment


def train(
    run: Run, folder: Path, *, world_size: int = 1, stop_by: signal.Signals | None = None, stop_at: int = 0
) -> list[int]:
    """Train on `world_size` ranks, stopped by a signal after step `stop_at` if `stop_by` is given.

    SIGTERM reaches the last rank alone, SIGKILL all of them, when what they have begun to write is on disk.
    Returns the ranks' exit codes: 75 for preempted, minus the signal for killed.
    """
    port = free_port()
    arguments = [(run, folder, rank, world_size, port, stop_by, stop_at) for rank in range(world_size)]
    return in_processes(_train, arguments)


def train_killed_at_the_probe(run: Run, folder: Path) -> list[int]:
    """Train on one rank, killed after the first evaluation's accuracy is recorded and before its shift."""
    return in_processes(_train_to_the_probe, [(run, folder)])


def _train_to_the_probe(run: Run, folder: Path) -> None:
    from suite.train import train_run
    from suite.train.metric_logger import MetricLogger

    MetricLogger.shift = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    train_run(run, folder)


def train_killed_while_it_writes(run: Run, folder: Path, step: int) -> list[int]:
    """Train on one rank, killed when half of the checkpoint of a step is written and training goes on."""
    return in_processes(_train_into_a_write, [(run, folder, step)])


def _train_into_a_write(run: Run, folder: Path, step: int) -> None:
    from suite.train import checkpoint, train_run
    from suite.train.loop import Trainer

    write, advance = checkpoint.write_atomically, Trainer.advance
    is_further = threading.Event()

    def write_half(path: Path, content: memoryview, **options: bool) -> None:
        if path == RunPaths(folder).checkpoint(step):
            path.with_name(f".{path.name}.{os.getpid()}.tmp").write_bytes(content[: len(content) // 2])
            assert is_further.wait(60), "the step waited for the checkpoint"
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content, **options)

    def advance_and_tell(trainer: Trainer, *args: object) -> object:
        result = advance(trainer, *args)
        if trainer.step > step:
            is_further.set()
        return result

    checkpoint.write_atomically, Trainer.advance = write_half, advance_and_tell
    train_run(run, folder)


def train_stopped_in(phase: str, run: Run, folder: Path, world_size: int = 1) -> list[int]:
    """Train, stopped by SIGTERM to the last rank as a part of the first epoch's end begins.

    `phase`: "evaluate_and_probe" or "accuracy_with_precise_bn", as the epoch's end calls them.
    """
    port = free_port()
    return in_processes(
        _train_into, [(phase, run, folder, rank, world_size, port) for rank in range(world_size)]
    )


def _train_into(phase: str, run: Run, folder: Path, rank: int, world_size: int, port: int) -> None:
    from suite.train import epoch_end

    called = getattr(epoch_end, phase)

    def signal_then_call(*args: object, **options: object) -> object:
        if rank == world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return called(*args, **options)

    setattr(epoch_end, phase, signal_then_call)
    _train(run, folder, rank, world_size, port, None, 0)


def _train(
    run: Run,
    folder: Path,
    rank: int,
    world_size: int,
    port: int,
    stop_by: signal.Signals | None,
    stop_at: int,
) -> None:
    from suite.errors import Preempted
    from suite.train import train_run
    from suite.train.loop import Trainer

    if world_size > 1:
        os.environ.update(rank_environment(rank, world_size, port))
    advance = Trainer.advance

    def advance_then_signal(trainer: Trainer, *args: object) -> object:
        result = advance(trainer, *args)
        if trainer.step == stop_at and (rank == world_size - 1 or stop_by is signal.SIGKILL):
            if stop_by is signal.SIGKILL and trainer.checkpoints is not None:
                trainer.checkpoints.wait()
            os.kill(os.getpid(), stop_by)
        return result

    if stop_by is not None:
        Trainer.advance = advance_then_signal
    try:
        train_run(run, folder)
    except Preempted:
        os._exit(75)
    os._exit(0)
