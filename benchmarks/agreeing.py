"""Starts many gloo processes on this machine, and measures how long they take to join and to agree."""

import os
import pickle
import socket
import statistics
import time
import traceback
from dataclasses import dataclass

import torch

from suite.errors import UserError
from suite.experiment import SystemSpec
from suite.train.distributed import joined

AGREEMENTS = 20
STEP_S = 0.5  # of which an agreement that was begun before takes as much as it needs


@dataclass(frozen=True)
class Agreeing:
    """Of the first rank, in seconds: to join, the first agreement, the median one, and one read late."""

    join_s: float
    first_s: float
    agree_s: float
    late_s: float


def bench_agreeing(ranks: int, *, connects_all: bool) -> Agreeing:
    """Fork `ranks` processes that join as training ranks do, agree, and end.

    `connects_all`: all pairs connect at the start, which is gloo's default, and not the suite's. Raises
    UserError if one fails.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    results, result = os.pipe()
    children = []
    for rank in range(ranks):
        if (child := os.fork()) == 0:
            code = 1
            try:
                found = _rank(rank, ranks, port, connects_all)
                if rank == 0:
                    os.write(result, pickle.dumps(found))
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        children.append(child)
    os.close(result)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    with os.fdopen(results, "rb") as file:
        content = file.read()
    if any(codes) or not content:
        raise UserError(f"{sum(map(bool, codes))} of {ranks} processes failed; the first reason is above")
    agreeing: Agreeing = pickle.loads(content)
    return agreeing


def _rank(rank: int, ranks: int, port: int, connects_all: bool) -> Agreeing:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in variables.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCH_GLOO_LAZY_INIT": "01"[not connects_all]}
    torch.set_num_threads(1)
    start_s = time.perf_counter()
    with joined(SystemSpec(device="cpu", torch_threads=1)) as place:
        times_s = [time.perf_counter() - start_s]
        for _ in range(1 + AGREEMENTS):
            start_s = time.perf_counter()
            if place.agree(rank) != ranks - 1:
                raise ValueError("the ranks agreed on something else than the largest code")
            times_s.append(time.perf_counter() - start_s)
        late_s = []
        for _ in range(3):
            agreement = place.begin_to_agree(rank)
            time.sleep(STEP_S)
            start_s = time.perf_counter()
            agreement.result()
            late_s.append(time.perf_counter() - start_s)
    return Agreeing(times_s[0], times_s[1], statistics.median(times_s[2:]), statistics.median(late_s))
