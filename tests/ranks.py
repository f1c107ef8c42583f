"""Real gloo ranks for tests: a function run in several processes of one process group."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).parent.parent


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
        "OMP_NUM_THREADS": "1",
    }


def on_ranks(function: Callable[[int, int], Any], world_size: int, folder: Path) -> list[Any]:
    """`function(rank, world_size)` on each of `world_size` gloo ranks; its results in rank order.

    The function must be importable (defined at a module's top level).
    """
    module, name = function.__module__, function.__name__
    code = f"import sys, ranks, {module} as m; ranks._child(m.{name}, sys.argv[1])"
    port = free_port()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder / f"{name}-{world_size}-{rank}.pt")],
            env={**os.environ, **rank_environment(rank, world_size, port), "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)
    paths = [folder / f"{name}-{world_size}-{rank}.pt" for rank in range(world_size)]
    return [torch.load(path, weights_only=False) for path in paths]


def _child(function: Callable[[int, int], Any], out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    result = function(dist.get_rank(), dist.get_world_size())
    torch.save(result, out)
    dist.destroy_process_group()
