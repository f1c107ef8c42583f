"""Training one run to its record: the entry point that every launcher calls."""

import errno
import logging
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from suite.binding import by_text
from suite.data.auto import Serving, check_same, serving
from suite.data.watch import DataWatch, Silence
from suite.data.workers import SHARED_MEMORY
from suite.errors import Diverged, Preempted, UserError
from suite.experiment import Run, check_batches
from suite.files import is_full
from suite.paths import RunPaths
from suite.provenance import code_state, cpu_name, provenance
from suite.record import RecordWriter, State, errors_noted
from suite.record.rank_errors import in_one_line, note_error
from suite.signals import StopFlag, ask_script_to_requeue, stop_flag
from suite.train.arithmetic import arithmetic, arithmetic_of, is_benchmarked
from suite.train.checkpoint import CheckpointStore
from suite.train.data_start import data_ready
from suite.train.distributed import Ranks, joined
from suite.train.hang_watch import HangWatch
from suite.train.kernels import norm_kernels
from suite.train.loop import Trainer

__all__ = ["joined", "train_on", "train_run"]

log = logging.getLogger("shiftbench")


def train_run(run: Run, folder: Path) -> None:
    """Train `run` to completion in `folder`, from its newest complete checkpoint if there is one.

    Every rank calls this; the first one writes the record, which ends with a status in any case. Raises
    UserError (nothing was trained), Diverged, Preempted (a checkpoint was written), or any other error that
    ended the training.
    """
    with stop_flag() as stop, joined(run.system) as ranks:
        train_on(run, folder, ranks, stop)


def train_on(
    run: Run, folder: Path, ranks: Ranks, stop: StopFlag, *, claim: str | None = None, patience_s: float = 1.0
) -> None:
    """As `train_run`, on ranks that have joined already: they may train several runs one after another.

    With a `claim`, a process that trains this run already is asked to leave within `patience_s`.
    """
    check_batches([run], ranks.world_size)
    record, refused = None, None
    with ExitStack() as stack:
        if ranks.is_first:
            try:
                writer = RecordWriter(run, folder, claim=claim, patience_s=patience_s)
                record = stack.enter_context(writer)
                record.forget_errors()
            except UserError as error:
                refused = error
        if ranks.agree(int(refused is not None)):
            refused = refused or UserError(f"{folder}: the first rank could not open the run folder")
            refused.is_noted = True  # the folder is another process's: write no error into it
            raise refused
        with errors_noted(RunPaths(folder), ranks.rank):

            def end(meaning: Silence, sentence: str) -> NoReturn:
                _end_process(meaning, sentence, RunPaths(folder), ranks, record, stop)

            timeout_s = run.system.collective_timeout_s
            with HangWatch(RunPaths(folder), ranks, timeout_s), DataWatch(timeout_s, stop, end):
                _train(run, ranks, record, stop)


def _train(run: Run, ranks: Ranks, record: RecordWriter | None, stop: StopFlag) -> None:
    hosts, binding = ranks.hosts(), by_text(ranks.bindings())
    try:
        served = _same_loader(run, ranks, record)
        if record is not None:
            origin = provenance(_device_name(ranks), hosts, ranks.device.type) | arithmetic_of(run)
            origin["binding"] = binding
            if ranks.device.type == "cuda":
                log.info("%s", "; ".join(f"ranks {which}: {text}" for text, which in binding.items()))
            origin["kernels"] = asdict(norm_kernels(run, ranks.device))
            origin["loader"] = asdict(served)
            record.start(origin)
            if (patch := code_state().patch) is not None:
                record.keep_patch(origin["patch"], patch)
        with (
            arithmetic(run.recipe.precision, cudnn_benchmark=is_benchmarked(run)),
            data_ready(run, ranks, stop) as run_here,
        ):
            trainer = Trainer(run_here, ranks, record, stop)
            trainer.train(_newest_state(record, ranks))
    except Preempted as preempted:
        _end_stopped(record, stop, str(preempted))
        raise
    except Diverged as diverged:
        _end(record, "diverged", str(diverged))
        raise
    except OSError as error:
        fault = None if record is None else storage_fault(error, record.paths)
        _end(record, "failed", fault or in_one_line(error))
        if fault is None:
            raise
        raise UserError(fault) from error
    except BaseException as error:
        _end(record, "failed", in_one_line(error))
        raise
    _end(record, "completed", None)


def _same_loader(run: Run, ranks: Ranks, record: RecordWriter | None) -> Serving:
    """Return the loader that serves. Raises UserError on all ranks where they, or a resumed run's, differ."""
    served = serving(run.data.loader, ranks.device)
    if run.data.loader == "auto":
        former = None if record is None else record.loader_of_checkpoints()
        former = ranks.texts(former or "")[0]  # the first rank has the record
        check_same(ranks.texts(served.ran), ranks.nodes(), former or None, served.why)
    return served


def storage_fault(error: OSError, paths: RunPaths) -> str | None:
    """Return in a sentence which storage is full, read-only or gone; None for an error of another kind."""
    if error.errno == errno.ENOENT and not paths.folder.exists():
        return f"{paths.folder}: was removed while the run trained"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return None
    places = [paths.folder, Path(tempfile.gettempdir()), SHARED_MEMORY]
    where = Path(error.filename) if error.filename else next(filter(is_full, places), paths.folder)
    if not where.is_relative_to(paths.folder):
        return f"{where}: {error.strerror}"
    kept = (
        "the last complete checkpoint is kept" if paths.checkpoint_steps() else "there is no checkpoint yet"
    )
    return f"{paths.folder}: {error.strerror}: {kept}"


def _newest_state(record: RecordWriter | None, ranks: Ranks) -> dict[str, Any] | None:
    """Return the newest complete checkpoint's state, which the first rank reads and sends to the others."""
    state: dict[str, Any] | None = None
    if record is not None:
        state, passed_over = CheckpointStore(record.paths).newest()
        for sentence in passed_over:
            log.warning("%s", sentence)
        step = state["step"] if state else 0
        record.rewind(state["measurements_size_bytes"] if state else 0, step)
        record.resume(step, passed_over)
        if state:
            log.info("resuming after step %d", step)
    box = [state]
    if ranks.world_size > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def _end(record: RecordWriter | None, state: State, reason: str | None, **details: Any) -> None:
    if record is None:
        return
    try:
        record.status(state, reason=reason, **details)
    except OSError as error:  # a full disk: the error that ended the run matters more
        log.error("%s: the status %r could not be written: %s", record.paths.status, state, error)


def _end_stopped(record: RecordWriter | None, stop: StopFlag, what: str) -> None:
    """Write that the run was stopped, and by whom: a signal, a newer start, or a study."""
    request = record.stop_request() if record is not None else None
    state = "preempted" if request is None else request.state
    by = _stopped_by(record, stop) if request is None else request.reason
    log.warning("%s, by %s", what, by)
    details = {} if request is None else {"stopped_by": request.by, "stopped_after_epoch": request.epoch}
    _end(record, state, f"{what}, by {by}", **details)


def _end_process(
    meaning: Silence,
    sentence: str,
    paths: RunPaths,
    ranks: Ranks,
    record: RecordWriter | None,
    stop: StopFlag,
) -> NoReturn:
    """End this process from another thread than the one that waits for its data, which cannot end."""
    if meaning == "failed" or record is None:  # only the first rank writes the status
        log.error("%s", sentence)
        note_error(paths, ranks.rank, TimeoutError(sentence))
    if meaning == "stopped":
        _end_stopped(record, stop, f"{sentence}; stopped")
        if stop.warned:
            ask_script_to_requeue(True)
    else:
        _end(record, "failed", sentence)
    os._exit(1)


def _stopped_by(record: RecordWriter | None, stop: StopFlag) -> str:
    if stop.signal is not None:
        return stop.signal.name
    return "a newer start of this run" if record is not None and record.is_claimed() else "another rank"


def _device_name(ranks: Ranks) -> str:
    return torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else cpu_name()
