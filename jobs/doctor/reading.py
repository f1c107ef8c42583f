"""How fast every node reads the images, all nodes at once, past its own page cache."""

import os
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from jobs.doctor.finding import Answer, Case, Request, Topic, Verdict, between

MAX_FILES, MAX_BYTES, MAX_S = 1000, 256 * 2**20, 5.0
PIECE = 2**20
READERS = 8
SLOW = 0.5
"""A node that reads less than this share of the other nodes' median is called slow."""


def probe_reading(request: Request, earlier: Mapping[str, Answer]) -> Answer | None:
    """Files, bytes and seconds of reading some of each data folder; other files on each node."""
    if not request.bandwidth or not request.data:
        return None
    number = int(os.environ.get("SLURM_PROCID", "0"))
    usable = [path for path, fault in earlier.get("data", {}).items() if fault is None]
    return {path: _read(Path(os.path.expanduser(path)), number) for path in usable}  # noqa: PTH111


def _read(folder: Path, number: int) -> Answer:
    found = islice(_files(folder / "train" if (folder / "train").is_dir() else folder), 4 * MAX_FILES)
    files = list(found)
    start = number * MAX_FILES % max(1, len(files))
    files = [*files[start:], *files[:start]][:MAX_FILES]
    read, read_bytes = 0, 0
    began = time.perf_counter()
    with ThreadPoolExecutor(READERS) as readers:
        # In portions, so that the limits hold to within one of them.
        for at in range(0, len(files), 4 * READERS):
            sizes = list(readers.map(_read_file, files[at : at + 4 * READERS]))
            read, read_bytes = read + len(sizes), read_bytes + sum(sizes)
            if read_bytes >= MAX_BYTES or time.perf_counter() - began >= MAX_S:
                break
    return {"files": read, "bytes": read_bytes, "s": time.perf_counter() - began}


def _files(folder: Path) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names)  # noqa: PTH118


def _read_file(path: str) -> int:
    """Read at most MAX_BYTES / READERS of a file that this node's page cache has forgotten."""
    size = 0
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while size < MAX_BYTES // READERS and (piece := file.read(PIECE)):
            size += len(piece)
    return size


def _rates(case: Case) -> Iterator[Verdict]:
    if errors := case.faults("reading"):
        yield "warning", errors, "see `data`"
        return
    for path in case.request.data:
        rates = {
            node: (answer[path]["bytes"] / answer[path]["s"] / 1e6, answer[path]["files"] / answer[path]["s"])
            for node, answer in case.answers("reading").items()
            if path in answer and answer[path]["s"] > 0
        }
        if not rates:
            continue
        slow = [
            f"{node}: {own:.3g} MB/s, the others {usual:.3g}"
            for node, (own, _) in rates.items()
            if len(rates) > 1
            and own < SLOW * (usual := statistics.median(r for n, (r, _) in rates.items() if n != node))
        ]
        mb_s = between(*(end(rate for rate, _ in rates.values()) for end in (min, max)))
        files = f"{statistics.median(files for _, files in rates.values()):,.0f} files/s"
        told = f"{path}: {mb_s} MB/s and {files} a node"
        told += f", all {len(rates)} at once" if len(rates) > 1 else ""
        if slow:
            fix = "compare its mount and its network with another node's (`mount`, `lfs check servers`)"
            yield "warning", f"{told}; {'; '.join(slow)}", f"{fix}, or set exclude: in the cluster's file"
        else:
            yield "ok", told


TOPIC = Topic({"read rate": _rates}, on_nodes={"reading": probe_reading})
