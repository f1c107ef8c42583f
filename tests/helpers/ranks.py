"""Functions in processes of their own, forked by the session's server, as gloo ranks where wanted."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jobs.local.fork_client import ForkedProcess
from jobs.local.process import ProcessSpec
from tests.helpers.shared_server import server_path

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
    """Call `function` in a process for each tuple of arguments. Returns the exit codes, as subprocess does.

    The function must be importable (defined at a module's top level).
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for number, args in enumerate(arguments):
            call, log = Path(folder, f"call{number}"), Path(folder, f"log{number}")
            call.write_bytes(pickle.dumps((function, args)))
            spec = ProcessSpec("tests.helpers.ranks", (str(call),), os.environ, log)
            processes.append(ForkedProcess(server_path(), spec))
        try:
            return [process.wait(TIMEOUT_S) for process in processes]
        except subprocess.TimeoutExpired:
            for process in processes:
                process.send_signal(signal.SIGKILL)
            raise AssertionError(f"{function.__name__}: a process still runs after {TIMEOUT_S} s") from None
        finally:
            print(*(log.read_text() for log in sorted(Path(folder).glob("log*"))))


def main() -> int:
    """In the forked process: call the function in the file that the first argument names."""
    function, arguments = pickle.loads(Path(sys.argv[1]).read_bytes())
    function(*arguments)
    return 0


def on_ranks(function: Callable[[int, int], Any], world_size: int, folder: Path) -> list[Any]:
    """`function(rank, world_size)` on each of `world_size` gloo ranks; its results in rank order."""
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
