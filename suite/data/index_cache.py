"""Lists of image files, kept on disk beside a fingerprint of their folders.

To list 1.28 million files on a network takes minutes, to ask for the times of a thousand folders a second. A
folder's time (its ctime, which no program can set) changes when a file in it is added, removed or renamed.
"""

import hashlib
import io
import json
import logging
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.files import write_atomically
from suite.paths import index_home

VERSION = 1
# A folder that changed so recently may change again without a change of its time.
SETTLED_AFTER_S = 2.0
ASKING_THREADS = 16

log = logging.getLogger("shiftbench")


class Folders:
    """The folders that were listed, with the times of their last change before that. Threads may add some."""

    def __init__(self, times_ns: dict[bytes, int] | None = None) -> None:
        self.times_ns = {} if times_ns is None else times_ns
        self.is_settled = True
        """Whether none changed so shortly before its listing that a change after it may not be noticed."""

    def add(self, folder: bytes) -> None:
        """Note a folder that is about to be listed. Raises OSError."""
        self.times_ns[folder] = changed_ns = os.stat(folder).st_ctime_ns  # noqa: PTH116
        if time.time_ns() - changed_ns <= SETTLED_AFTER_S * 1e9:
            self.is_settled = False

    @property
    def is_as_it_was(self) -> bool:
        """Whether each of them has the time that it had."""
        with ThreadPoolExecutor(ASKING_THREADS) as threads:
            return all(threads.map(self._is_as_it_was, self.times_ns.items()))

    @staticmethod
    def _is_as_it_was(folder: tuple[bytes, int]) -> bool:
        path, time_ns = folder
        try:
            return os.stat(path).st_ctime_ns == time_ns  # noqa: PTH116
        except OSError:
            return False


@dataclass(frozen=True)
class Listing:
    """The images of a split by class, and the folders that were listed.

    `counts_C`: the images of each class. `warning`: about files that are ignored; may be empty.
    """

    names_N: NDArray[np.bytes_]
    counts_C: NDArray[np.int64]
    classes: tuple[str, ...]
    folders: Folders
    warning: str = ""


def load(folder: Path, split: str) -> Listing | None:
    """Return the list of a split, or None if none is kept, or if its folders have changed."""
    path = _path(folder, split)
    if path is None or not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            about: dict[str, Any] = json.loads(arrays["about"].tobytes())
            if about["version"] != VERSION:
                return None
            times = zip(arrays["folders"].tolist(), arrays["times_ns"].tolist(), strict=True)
            folders = Folders(dict(times))
            if not folders.is_as_it_was:
                return None
            names_N, counts_C = arrays["names"], arrays["counts"]
        return Listing(names_N, counts_C, tuple(about["classes"]), folders, about["warning"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        log.info("%s: the list kept of %s cannot be used: %s", path, folder / split, error)
        return None


def save(folder: Path, split: str, listing: Listing) -> None:
    """Keep the list of a split where that is possible, unless its folders have just changed."""
    path = _path(folder, split)
    if path is None or not listing.folders.is_settled:
        return
    about = {"version": VERSION, "classes": listing.classes, "warning": listing.warning}
    times_ns = listing.folders.times_ns
    content = io.BytesIO()
    np.savez(
        content,
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        names=listing.names_N,
        counts=listing.counts_C,
        folders=np.array(list(times_ns), np.bytes_),
        times_ns=np.array(list(times_ns.values()), np.int64),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getbuffer(), durable=False)
    except OSError as error:
        log.info("%s: the list of %s is not kept: %s", path, folder / split, error.strerror)


def _path(folder: Path, split: str) -> Path | None:
    """Return the file for a split's list, or None without a home."""
    home = index_home()
    place = os.fsencode(os.path.realpath(folder)) + b"/" + split.encode()
    name = hashlib.sha256(place).hexdigest()
    return None if home is None else home / f"{name[:20]}.npz"
