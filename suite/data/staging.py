"""Copies a pack to a node's own disk, once for all ranks and runs there.

A copy is named after the pack's content and never changed, so a run may read it while another one copies a
newer state of the pack. Every process that reads a copy holds a shared lock on it. No torch.
"""

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import orjson

from suite.data.packed import Packed
from suite.data.packs import MANIFEST, Pack, open_pack, pack_index
from suite.errors import Cancelled, UserError
from suite.files import NoLocks, draft_of, locked, publish_folder, read_json
from suite.user import user_name

# Of the free space; a disk that is full harms every job of the node.
MOST_OF_FREE = 0.95
MAX_THREADS = 8
POLL_S = 0.2
STATE = "staged.json"
"""In a copy: the source, and the length and time of each file when it was complete."""

log = logging.getLogger("shiftbench")


def copies_folder(stage: Path) -> Path:
    """Return the folder of this user's copies."""
    return stage / f"shiftbench-{user_name()}"


def copy_of(pack: Pack, stage: Path) -> Path:
    """Return the place of a pack's copy, whether it exists or not."""
    return copies_folder(stage) / f"{pack.folder.name}-{pack.digest[:12]}"


def copy_pack(pack: Pack, stage: Path, cancel: threading.Event) -> None:
    """Copy a pack below `stage`, unless a whole copy is there. One process of a node calls this for a run.

    A copy that does not fit is left out, with a warning. Raises UserError for a place that cannot be written
    and for a damaged pack, and Cancelled.
    """
    copy = copy_of(pack, stage)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(copy.parent)
        with _locked_in_turn(copy, cancel):
            if _is_whole(copy, pack):
                log.info("data.stage: %s is a whole copy of %s", copy, pack.folder)
                return
            if copy.is_dir():
                log.warning(
                    "data.stage: %s is stale: files in it were changed or removed: copying anew", copy
                )
                if not _is_removed(copy):
                    _fall_back(pack, copy, "is stale, and another run still reads it")
                    return
            _remove_stale(pack, copy)
            needed, free = pack.num_bytes, shutil.disk_usage(copy.parent).free
            if needed > MOST_OF_FREE * free:
                _fall_back(pack, stage, f"has {_gb(free)} free, and the pack takes {_gb(needed)}")
                return
            _copy(pack, copy, cancel)
    except NoLocks as error:
        raise UserError(f"data.stage: {error.sentence(stage)}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # another job filled it meanwhile
            _fall_back(pack, stage, os.strerror(error.errno))
            return
        where = os.fsdecode(error.filename) if error.filename else str(stage)
        raise UserError(f"data.stage: {where}: {error.strerror}; name a folder that can be written") from None


def _fall_back(pack: Pack, place: Path, why: str) -> None:
    log.warning("data.stage: %s %s: training reads %s", place, why, pack.folder)


@contextmanager
def held_copy(pack: Pack, stage: Path) -> Iterator[Path]:
    """Yield the folder that training reads, and keep it: the copy if there is one, else the pack's own."""
    copy = copy_of(pack, stage)
    with ExitStack() as stack:
        if not copy.is_dir():
            yield pack.folder
            return
        try:
            stack.enter_context(locked(_used(copy), wait=True, shared=True))
        except OSError as error:
            _fall_back(pack, copy, f"cannot be locked ({error.strerror})")
            yield pack.folder
            return
        is_whole = _is_whole(copy, pack)
        if not is_whole:
            _fall_back(pack, copy, "has changed since it was copied")
        yield copy if is_whole else pack.folder


# ------------------------------------------------------------ copies


def _copy(pack: Pack, copy: Path, cancel: threading.Event) -> None:
    began_s = time.monotonic()
    log.info("data.stage: copying %s, %s, to %s", pack.folder, _gb(pack.num_bytes), copy)
    with draft_of(copy) as draft:
        whole = draft / "copy"
        whole.mkdir()
        shutil.copyfile(pack.folder / MANIFEST, whole / MANIFEST)
        parts = list[tuple[Packed, Path]]()
        for split, packed_split in pack.splits.items():
            shutil.copyfile(pack.folder / packed_split.index, whole / packed_split.index)
            packed = pack_index(pack.folder, split).packed
            assert packed is not None
            for number, file in enumerate(packed_split.files):
                mine = packed.take(np.flatnonzero(packed.rows_N["file"] == number))
                parts.append((mine, whole / file.name))
        with ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="stage") as threads:
            done = [threads.submit(_copy_file, packed, path, cancel) for packed, path in parts]
            try:
                for one in done:
                    one.result()
            except BaseException:
                cancel.set()
                threads.shutdown(cancel_futures=True)
                raise
        open_pack(whole).check_files()
        state = {"source": str(pack.folder.absolute()), "files": _state_of(whole, pack)}
        (whole / STATE).write_bytes(orjson.dumps(state))
        publish_folder(whole, copy)
    log.info("data.stage: copied %s in %.0f s", _gb(pack.num_bytes), time.monotonic() - began_s)


def _copy_file(packed: Packed, path: Path, cancel: threading.Event) -> None:
    """Write a data file's images one after another, as they lie in it, and check each."""
    try:
        with path.open("wb", buffering=2**20) as file:
            for image in np.argsort(packed.rows_N["offset"]):
                if cancel.is_set():
                    raise Cancelled
                file.write(packed.read(image, checked=True).data)
    except OSError as error:
        error.filename = str(path)
        raise


def _state_of(folder: Path, pack: Pack) -> dict[str, list[int]]:
    """Return length and time of each file of a copy. Raises OSError."""
    states = {name: (folder / name).stat() for name in (MANIFEST, *(name for name, _ in pack.files()))}
    return {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}


def _is_whole(copy: Path, pack: Pack) -> bool:
    """Return whether a copy is there as it was when it was complete."""
    if not copy.is_dir():
        return False
    state = read_json(copy / STATE)
    with suppress(OSError, UserError, TypeError, KeyError):
        if state["files"] == _state_of(copy, pack) and open_pack(copy).digest == pack.digest:
            return True
    return False


# ------------------------------------------------------------ what others left


def _remove_leftovers(folder: Path) -> None:
    """Remove the drafts of processes that were killed: nobody holds their locks."""
    for draft in folder.glob(".*-????????"):
        if draft.is_dir() and (lock := _free_lock(folder / draft.name[1:-9])) is not None:
            with lock:
                log.warning("data.stage: removing %s, left by a job that was killed while it copied", draft)
                shutil.rmtree(draft, ignore_errors=True)


def _remove_stale(pack: Pack, copy: Path) -> None:
    """Remove the copies of older states of a pack that nobody reads."""
    for other in copy.parent.glob(f"{pack.folder.name}-*"):
        state = read_json(other / STATE) if other != copy and other.is_dir() else None
        if not isinstance(state, dict) or state.get("source") != str(pack.folder.absolute()):
            continue
        if (lock := _free_lock(other)) is not None:
            with lock:
                if _is_removed(other):
                    log.warning(
                        "data.stage: removed %s, which was stale: %s has changed since", other, pack.folder
                    )


def _is_removed(copy: Path) -> bool:
    """Remove a copy unless a process reads it. Returns whether it was removed."""
    with suppress(BlockingIOError), locked(_used(copy), wait=False):
        aside = copy.with_name(f".{copy.name}-{os.getpid():08d}")  # a leftover, if this is killed
        copy.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
        return True
    return False


def _used(copy: Path) -> Path:
    return copy.with_name(f".{copy.name}.used")


def _free_lock(copy: Path) -> IO[str] | None:
    """Return the lock of a copy unless a process is copying."""
    with suppress(BlockingIOError):
        return locked(copy.with_name(f".{copy.name}.lock"), wait=False)
    return None


@contextmanager
def _locked_in_turn(copy: Path, cancel: threading.Event) -> Iterator[None]:
    """Wait until no other process copies this pack."""
    told = False
    while (lock := _free_lock(copy)) is None:
        if not told:
            log.info("data.stage: another job is copying to %s; waiting for it", copy)
        told = True
        if cancel.wait(POLL_S):
            raise Cancelled
    with lock:
        yield


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
