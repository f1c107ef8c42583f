"""Real processes for tests: forked from a server that imported torch once, as gloo ranks where wanted."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["suite.train", "suite.data.dali", "suite.data.vision"])
TIMEOUT_S = 240


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """torchrun's variables."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def in_processes(function: Callable[..., None], arguments: list[tuple[Any, ...]]) -> list[int]:
    """`function` in a process for each tuple of arguments; the exit codes (minus the signal if killed)."""
    processes = [FORKS.Process(target=function, args=args) for args in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=TIMEOUT_S)
        if process.is_alive():
            for one in processes:
                one.kill()
            raise AssertionError(f"{function.__name__}: a process still runs after {TIMEOUT_S} s")
    return [process.exitcode for process in processes]


def on_ranks(function: Callable[[int, int], Any], world_size: int, folder: Path) -> list[Any]:
    """`function(rank, world_size)` on each of `world_size` gloo ranks; its results in rank order.

    The function must be importable (defined at a module's top level).
    """
    port = free_port()
    paths = [folder / f"{function.__name__}-{world_size}-{rank}.pt" for rank in range(world_size)]
    arguments = [(function, rank, world_size, port, path) for rank, path in enumerate(paths)]
    assert in_processes(_rank, arguments) == [0] * world_size
    return [torch.load(path, weights_only=False) for path in paths]


def _rank(function: Callable[[int, int], Any], rank: int, world_size: int, port: int, out: Path) -> None:
    os.environ.update(rank_environment(rank, world_size, port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save(function(rank, world_size), out)
    dist.destroy_process_group()
