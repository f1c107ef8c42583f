"""Real training processes that stop themselves at a chosen step by a real signal.

They are forked from a server that has imported torch once, which spares each test its import.
"""

import multiprocessing
import os
import signal
from pathlib import Path

from ranks import free_port, rank_environment

from suite.experiment import Run

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["suite.train", "suite.data.dali", "suite.data.vision"])


def train(
    run: Run, folder: Path, *, world_size: int = 1, stop_by: signal.Signals | None = None, stop_at: int = 0
) -> list[int]:
    """Train on `world_size` ranks; with `stop_by`, the last rank gets that signal after step `stop_at`.

    Returns the exit codes of the ranks: 75 for preempted, minus the signal for killed.
    """
    port = free_port()
    processes = [
        FORKS.Process(target=_child, args=(run, folder, rank, world_size, port, stop_by, stop_at))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"a rank of {world_size} still runs after 200 s")
    return [process.exitcode for process in processes]


def _child(
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
    step = Trainer.advance

    def step_then_signal(trainer: Trainer, *args: object) -> object:
        result = step(trainer, *args)
        if trainer.step == stop_at and (rank == world_size - 1 or stop_by is signal.SIGKILL):
            os.kill(os.getpid(), stop_by)
        return result

    if stop_by is not None:
        Trainer.advance = step_then_signal
    try:
        train_run(run, folder)
    except Preempted:
        os._exit(75)
    os._exit(0)
