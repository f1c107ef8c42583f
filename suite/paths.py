"""The name of every file of a run, in <output_dir>/<folder_name>/, and the folder of caches."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from suite.user import expand_path, home_or_none


def cache_home() -> Path | None:
    """Return the folder of caches: $XDG_CACHE_HOME if it is an absolute path, else ~/.cache.

    None without a home. Raises UserError for a home or variable in it that is not known.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if base and (folder := expand_path(base, "XDG_CACHE_HOME")).is_absolute():
        return folder
    home = home_or_none()
    return None if home is None else home / ".cache"


def data_home() -> Path | None:
    """Return the folder of prepared data sets: $SHIFTBENCH_DATA_DIR, else that below the cache folder.

    None without a home. Raises UserError as `cache_home` does.
    """
    if root := os.environ.get("SHIFTBENCH_DATA_DIR"):
        return expand_path(root, "SHIFTBENCH_DATA_DIR")
    home = cache_home()
    return None if home is None else home / "shiftbench" / "data"


def index_home() -> Path | None:
    """Return the folder of the lists of images' files, below `data_home`, as that does."""
    home = data_home()
    return None if home is None else home / "indexes"


DETECTIONS, GALLERY, RANKS = "detections.json", "gallery.json", "ranks.json"


class _Below:
    """A path in a run's folder, made on access: making all of them for thousands of runs is slow."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, paths: "RunPaths", owner: type) -> Path:
        return paths.folder / self.name


class RunPaths:
    """The files of one run folder. Creates nothing."""

    run = _Below("run.json")  # the resolved Run, and the schema's version
    status = _Below("status.json")  # state, reason, progress; replaced atomically
    provenance = _Below("provenance.jsonl")  # for each start: code, versions, devices, hosts, scheduler
    measurements = _Below("measurements.jsonl")  # a line for each measurement, appended
    layers = _Below("layers.json")  # names and widths behind the per-layer measurements
    tid = _Below("tid.jsonl")  # TID every few steps, if the run asks for it
    noise = _Below("noise.json")  # accuracy under noise on the estimates, if it was measured
    robustness = _Below("robustness.json")  # accuracy and shift on other data, if they were measured
    ranks = _Below(RANKS)  # each rank's step times over the newest epoch, of several ranks
    detections = _Below(DETECTIONS)  # of a detector's newest evaluation, as COCO writes results
    gallery = _Below(GALLERY)  # a few of its images, small, with their boxes and the detector's
    loggers = _Below("loggers.json")  # what other tools have of the measurements, if there are any
    log = _Below("log.txt")  # output of the process
    lock = _Below("lock")  # held by the process that writes here
    claim = _Below("claim")  # a newer start's request that this process leave
    stop = _Below("stop.json")  # a study's request that this process stop, with its reason
    errors = _Below("errors")
    flight = _Below("flight")  # what ranks that wait in vain leave behind; of several ranks
    rank_nodes = _Below("flight/nodes.json")  # each rank's node, by rank
    checkpoints = _Below("checkpoints")
    best = _Below("checkpoints/best.pt")

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def error(self, rank: int) -> Path:
        """The error that ended this rank in the newest attempt."""
        return self.errors / f"rank-{rank}.json"

    def stall(self, rank: int) -> Path:
        """Where this rank was when it had not gone on for long."""
        return self.flight / f"rank-{rank}.json"

    def trace(self, backend: str, rank: int) -> Path:
        """The collectives that this rank has entered over a backend, as torch dumps them."""
        return self.flight / f"{backend}-{rank}"

    def patch(self, name: str) -> Path:
        """A difference of the sources from their commit, by its name in the provenance."""
        return self.folder / "patches" / f"{name}.patch"

    def checkpoint(self, step: int) -> Path:
        """The complete training state after `step` optimizer steps."""
        return self.checkpoints / f"step-{step:08d}.pt"

    def checkpoint_steps(self) -> list[int]:
        """Return the steps that have a checkpoint, oldest first."""
        found = (re.fullmatch(r"step-(\d{8})\.pt", p.name) for p in self.checkpoints.glob("step-*.pt"))
        return sorted(int(match[1]) for match in found if match)


def find_runs(
    roots: list[Path], failed: Callable[[str, OSError], None] = lambda folder, error: None
) -> list[RunPaths]:
    """Return the run folders at or below the given ones, each real folder once, in a stable order.

    `failed` receives each folder that cannot be listed.
    """
    seen: set[str] = set()
    found = [
        root / below for root in roots for below in walk_runs(os.path.realpath(root), seen, failed=failed)
    ]
    return [RunPaths(folder) for folder in sorted(found)]


def walk_runs(
    root: str,
    seen: set[str],
    is_known: Callable[[str], bool] = lambda below: False,
    failed: Callable[[str, OSError], None] = lambda folder, error: None,
) -> Iterator[str]:
    """Yield the paths of run folders relative to `root`, which is a real path; "" for `root` itself.

    Folders below a run are not searched. Links to folders are followed last. Every real folder is added to
    `seen`, and skipped if it is there already. A folder that `is_known` to hold a run is not listed. `failed`
    receives each folder that cannot be listed; one that is removed meanwhile is left out.
    """
    waiting, links = [("", root)], list[str]()
    while waiting or links:
        if not waiting:
            links.sort(reverse=True)
            below = links.pop()
            waiting.append((below, os.path.realpath(f"{root}/{below}")))
        below, real = waiting.pop()
        if real in seen:
            continue
        seen.add(real)
        folder = f"{root}/{below}" if below else root
        try:
            if is_known(below):
                yield below
                continue
            names, linked = _folders_in(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            failed(folder, error)
            continue
        if names is None:
            yield below
            continue
        begin = f"{below}/" if below else ""
        waiting += [(begin + name, f"{real}/{name}") for name in names]
        links += [begin + name for name in linked]


def _folders_in(folder: str) -> tuple[list[str] | None, list[str]]:
    """Return the names of a folder's folders, or None if it holds a run, and of its links to folders."""
    names, links = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == "run.json":
                return None, []
            if entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
            elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112 - False for a loop
                links.append(entry.name)
    return names, links
