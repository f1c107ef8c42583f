"""Notes where a rank is when it does not go on, so that the one for which the others wait can be named."""

import json
import logging
import sys
import threading
import time
import traceback
from contextlib import ExitStack, suppress
from typing import Self

from suite.data.watch import WaitTimer
from suite.errors import Diverged, Preempted, UserError
from suite.files import write_atomically
from suite.paths import RunPaths
from suite.record.hang import Stall
from suite.record.rank_errors import has_waited, node_name
from suite.train.distributed import Ranks
from suite.train.flight_recorder import dumped_to, gloo_dump

SHARE = 0.8
"""Of the time after which collectives fail. So all ranks that live have written before the first one ends."""
NUM_FRAMES = 40

log = logging.getLogger("shiftbench")


def goes_on(epoch: int, step: int, phase: str) -> None:
    """Note that this rank goes on, in an epoch (from 1) and after so many optimizer steps."""
    if HangWatch.current is not None:
        HangWatch.current.beat(epoch, step, phase)


class HangWatch(WaitTimer):
    """Writes into the run folder where this rank is, when it has not gone on for most of `timeout_s`.

    A thread does so, whatever the main thread waits for, and removes it when the rank goes on. All ranks
    enter this context together. At an end without a fault nothing is left. Does nothing for one rank.
    """

    current: "HangWatch | None" = None

    def __init__(self, paths: RunPaths, ranks: Ranks, timeout_s: float) -> None:
        super().__init__(SHARE * timeout_s, self._write)
        self._paths, self._ranks = paths, ranks
        self._is_waiting = True  # between any two beats
        self._place = (1, 0, "starting")
        self._dumps = ExitStack()

    def __enter__(self) -> Self:
        if self._ranks.world_size == 1:
            return self
        nodes = self._ranks.nodes()
        self._paths.flight.mkdir(exist_ok=True)
        if self._ranks.is_first:
            write_atomically(self._paths.rank_nodes, json.dumps(nodes) + "\n")
        self._dumps.enter_context(dumped_to(self._paths.flight / "nccl-"))
        HangWatch.current = self
        return super().__enter__()

    def __exit__(self, *what: object) -> None:
        if HangWatch.current is not self:
            return
        HangWatch.current = None
        super().__exit__()
        error = what[1] if isinstance(what[1], BaseException) else None
        if error is None or isinstance(error, Preempted | Diverged | UserError):
            self._dumps.close()
            self._clear()
        elif not self.is_over and has_waited(text := "".join(traceback.format_exception(error))):
            self._note(text)  # the time-out came before this thread's turn

    def beat(self, epoch: int, step: int, phase: str) -> None:
        """As `goes_on`."""
        self._place = (epoch, step, phase)
        self._num_waits += 1

    def _look(self, passed_s: float) -> None:
        if self.is_over and self._waited_s == 0:
            self.is_over = False
            self._forget()
        super()._look(passed_s)

    def _write(self) -> None:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        self._note("".join(traceback.format_stack(frame, NUM_FRAMES)))

    def _note(self, stack: str) -> None:
        epoch, step, phase = self._place
        rank = self._ranks.rank
        stall = Stall(rank, node_name(), epoch, step, phase, time.time(), self._waited_s, stack)
        try:
            write_atomically(self._paths.stall(rank), stall.text())
            if (dump := gloo_dump()) is not None:
                write_atomically(self._paths.trace("gloo", rank), dump)
        except OSError as error:
            waited = f"rank {rank} has not gone on for {stall.stalled_s:.0f} s"
            log.error("%s, and where it is could not be written: %s", waited, error)
            return
        path = self._paths.stall(rank)
        log.warning("rank %d has not gone on for %.0f s; %s says where it is", rank, stall.stalled_s, path)

    def _forget(self) -> None:
        with suppress(OSError):
            self._paths.stall(self._ranks.rank).unlink(missing_ok=True)
            self._paths.trace("gloo", self._ranks.rank).unlink(missing_ok=True)

    def _clear(self) -> None:
        """Remove what this rank has written, and the folder after the last rank."""
        self._forget()
        with suppress(OSError):
            if self._ranks.is_first:
                self._paths.rank_nodes.unlink(missing_ok=True)
            self._paths.flight.rmdir()
