"""What the ranks do about their data before the first step: one copies or lists for others, which wait."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from suite.data.packs import Pack, open_pack
from suite.data.sources import check_stage, dataset_folder, indexes_to_share, receive_indexes
from suite.data.staging import copy_pack, held_copy
from suite.errors import Cancelled, Preempted, UserError
from suite.experiment import DataSpec, Run
from suite.signals import StopFlag
from suite.train.distributed import Ranks
from suite.train.hang_watch import goes_on
from suite.user import expand_path

T = TypeVar("T")
ASK_EVERY_S = 1.0
"""Between two agreements of the ranks that wait. They may wait for longer than a collective may take."""


class _Now(IntEnum):
    """How far a rank is with its work. The ranks agree on the largest."""

    DONE = 0
    BUSY = 1
    STOP = 2
    STOP_WARNED = 3
    """Stop because a scheduler's warning has come: the job will be queued again."""
    FAILED = 4


@contextmanager
def data_ready(run: Run, ranks: Ranks, stop: StopFlag) -> Iterator[Run]:
    """Yield the run as this rank reads its data: from the node's copy of a pack, or by a list that it got.

    One rank of each node copies a pack to `data.stage`; the first rank alone lists a folder's files. Every
    rank calls this. Raises UserError for data that are missing or damaged and for places that cannot be
    written, on all ranks, and Preempted.
    """
    with _staged(run, ranks, stop) as run_here:
        if run.task.entry.layout == "folders":
            _share_indexes(run_here.data, ranks, stop)
        yield run_here


@contextmanager
def _staged(run: Run, ranks: Ranks, stop: StopFlag) -> Iterator[Run]:
    if run.data.stage is None:
        yield run
        return
    stage_text = run.data.stage

    def prepare(cancel: threading.Event) -> tuple[Pack, Path]:
        stage = expand_path(stage_text, "data.stage")
        check_stage(run.data)
        pack = open_pack(dataset_folder(run.data))
        if ranks.local_rank == 0:
            copy_pack(pack, stage, cancel)
        return pack, stage

    prepared = _all_wait_for(prepare, ranks, stop)
    assert prepared is not None  # each rank prepares
    pack, stage = prepared
    with held_copy(pack, stage) as folder:
        data = run.data.model_copy(update={"path": str(folder), "stage": None})
        yield run.model_copy(update={"data": data})


def _share_indexes(data: DataSpec, ranks: Ranks, stop: StopFlag) -> None:
    """Let the first rank list the images' files, also where it is alone, and send the list to the others."""
    work = partial(indexes_to_share, data) if ranks.is_first else None
    box = [_all_wait_for(work, ranks, stop)]
    if ranks.world_size > 1:
        dist.broadcast_object_list(box, src=0)
    if box[0] is not None:
        receive_indexes(data, box[0])


def _all_wait_for(work: Callable[[threading.Event], T] | None, ranks: Ranks, stop: StopFlag) -> T | None:
    """Do `work` on this rank, if any, and wait until all ranks have done theirs; return its result.

    `work` ends early when the event that it receives is set. Raises its error, UserError for that of another
    rank, and Preempted when a stop signal comes.
    """
    cancel = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="data") as thread:
        future = None if work is None else thread.submit(work, cancel)
        while (decision := _Now(ranks.agree(_state(future, stop)))) is _Now.BUSY:
            goes_on(1, 0, "preparing data")
            if future is not None:
                wait([future], ASK_EVERY_S)
        cancel.set()
    if decision in (_Now.STOP, _Now.STOP_WARNED):
        warned = decision is _Now.STOP_WARNED
        raise Preempted("stopped before the first step, while data were prepared", is_warned=warned)
    if decision is _Now.FAILED:
        raise _error_of_one(None if future is None else future.exception(), ranks)
    return None if future is None else future.result()


def _state(future: "Future[T] | None", stop: StopFlag) -> _Now:
    if stop.signal is not None:
        return _Now.STOP_WARNED if stop.warned else _Now.STOP
    if future is None:
        return _Now.DONE
    if not future.done():
        return _Now.BUSY
    return _Now.DONE if future.exception() is None else _Now.FAILED


def _error_of_one(own: BaseException | None, ranks: Ranks) -> BaseException:
    """Return this rank's error, or one with the sentence of the first rank that has one."""
    has_own = own is not None and not isinstance(own, Cancelled)
    found: list[tuple[bool, str] | None] = [(isinstance(own, UserError), str(own)) if has_own else None]
    if ranks.world_size > 1:
        found *= ranks.world_size
        dist.all_gather_object(found, found[0])
    if has_own and own is not None:
        return own
    is_users, sentence = next(one for one in found if one is not None)
    return UserError(sentence) if is_users else RuntimeError(f"another rank failed: {sentence}")
