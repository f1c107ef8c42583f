"""For which rank the others waited, by what each rank wrote meanwhile and by torch's flight recorder."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from suite.errors import UserError
from suite.files import parse_json, read_whole
from suite.paths import RunPaths
from suite.record.collectives import Collective, Gap, find_gap, read_dump
from suite.record.shapes import COUNT, NUMBER, TEXT, Shape, fault_in, known, list_of

BACKENDS = ("gloo", "nccl")
MAX_NAMED = 4  # ranks in a sentence
_READ: dict[Path, tuple[tuple[tuple[str, int, int, int], ...], "Hang | None"]] = {}
"""What was found in a run's folder, with the names and versions of its files."""
_SHAPES: dict[str, Shape] = {
    **dict.fromkeys(("rank", "epoch", "step"), COUNT.required()),
    **dict.fromkeys(("node", "phase", "stack"), TEXT.required()),
    **dict.fromkeys(("at", "stalled_s"), NUMBER.required()),
}


@dataclass(frozen=True)
class Stall:
    """Where a rank was when it had not gone on for `stalled_s` seconds, by its own word.

    It was in `phase`, in `epoch` (from 1), after `step` optimizer steps; its main thread had this `stack`.
    `at`: seconds since 1970.
    """

    rank: int
    node: str
    epoch: int
    step: int
    phase: str
    at: float
    stalled_s: float
    stack: str

    @property
    def place(self) -> str:
        return f"epoch {self.epoch}, step {self.step}, {self.phase}"

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True)
class Hang:
    """What is known of ranks that waited in vain.

    `nodes`: each rank's node by rank, empty if not known. `stalls`: by rank. `gap`: which collective was not
    entered by all. `notes`: a sentence for each file that cannot be used.
    """

    nodes: Sequence[str] = ()
    stalls: dict[int, Stall] = field(default_factory=dict)
    gap: Gap | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def lagging(self) -> list[int]:
        """The ranks for which the others waited; empty if that is not known."""
        if self.gap is not None and self.gap.suspects:
            return self.gap.suspects
        steps = {rank: stall.step for rank, stall in self.stalls.items()}
        if len(set(steps.values())) > 1:
            return sorted(rank for rank, step in steps.items() if step == min(steps.values()))
        silent = sorted(set(range(len(self.nodes))) - set(self.stalls))
        return silent if self.stalls else []

    def sentence(self) -> str:
        """Return which rank hangs, and how that is known, after the collectives' time-out."""
        lagging = self.lagging
        who = self.named(lagging) if lagging else "a rank"
        verbs = ("hangs", "is") if len(lagging) < 2 else ("hang", "are")
        words = f"{verbs[0]}, or {verbs[1]} slower than the others by more than system.collective_timeout_s"
        return f"{who} {words}{self._evidence()}"

    def sentence_so_far(self) -> str:
        """Return for which rank the others wait, before the time-out: that rank may still go on."""
        stalled_s = max((stall.stalled_s for stall in self.stalls.values()), default=None)
        if stalled_s is None:
            return self.sentence()  # torch has dumped collectives, as it does after the time-out
        waited = f"for {stalled_s:.0f} s{self._evidence()}"
        if not self.lagging:
            return f"its ranks have not gone on {waited}"
        return f"the others have waited for {self.named(self.lagging)} {waited}"

    def _evidence(self) -> str:
        """Return how it is known, in parentheses; empty if nothing is."""
        details = [text for rank in self.lagging if len(self.lagging) == 1 and (text := self._detail(rank))]
        if self.gap is not None:
            called = f"{self.gap.collective.name} {self.gap.collective.number}"
            waiting = f"{self.named(self.gap.waiting)} waited in" if self.gap.suspects else "all have entered"
            details.append(f"{waiting} {called}")
            if self.gap.silent and self.gap.suspects != self.gap.silent:
                details.append(f"{self.named(self.gap.silent)} left no dump")
        return f" ({'; '.join(details)})" if details else ""

    def _detail(self, rank: int) -> str:
        """Return what the one rank that hangs did, as far as is known."""
        if self.gap is not None and rank in self.gap.others:
            return f"it called {self.gap.others[rank]}"
        if rank in self.stalls:
            return self.stalls[rank].place
        if self.gap is not None and rank in self.gap.missing:
            return ""  # torch has dumped its collectives
        silent = "it left no word: it was stopped or lost, or hangs in native code"
        furthest = max(self.stalls.values(), key=lambda stall: (stall.epoch, stall.step), default=None)
        return silent if furthest is None else f"{silent}; the others were at {furthest.place}"

    def named(self, ranks: Sequence[int]) -> str:
        """Return ranks with their nodes; of many ranks the nodes, each with how many."""
        if len(ranks) > MAX_NAMED:
            nodes = Counter(self._node(rank) or "unknown nodes" for rank in ranks)
            listed = ", ".join(f"{count} on {node}" for node, count in nodes.most_common(MAX_NAMED))
            return f"{len(ranks)} ranks ({listed}{', …' if len(nodes) > MAX_NAMED else ''})"
        each = [f"{rank}{' on ' if self._node(rank) else ''}{self._node(rank)}" for rank in ranks]
        return f"rank {each[0]}" if len(each) == 1 else f"ranks {', '.join(each[:-1])} and {each[-1]}"

    def _node(self, rank: int) -> str:
        if rank in self.stalls:
            return self.stalls[rank].node
        return self.nodes[rank] if rank < len(self.nodes) else ""


def read_hang(paths: RunPaths) -> Hang | None:
    """Return what the ranks of the newest attempt left behind; None where no rank waited for long.

    The dumps of hundreds of ranks take a second to read. A process reads them again when they have changed,
    or where something could not be read.
    """
    try:
        with os.scandir(paths.flight) as entries:
            seen = tuple(sorted((one.name, *_version(one)) for one in entries))
    except FileNotFoundError:
        return None
    except OSError as error:
        return Hang(notes=[f"{paths.flight}: cannot be read: {error.strerror}"])
    if paths.folder in _READ and _READ[paths.folder][0] == seen:
        return _READ[paths.folder][1]
    hang = _read_files(paths, [name for name, *_ in seen])
    if hang is None or not hang.notes:
        _READ[paths.folder] = (seen, hang)
    return hang


def _version(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    """Return what changes when a file is replaced; zeros for one that was removed meanwhile."""
    try:
        found = entry.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read_files(paths: RunPaths, names: Sequence[str]) -> Hang | None:
    notes: list[str] = []
    nodes = _read_nodes(paths, notes)
    stalls = [_read_stall(paths, name, notes) for name in names if name.startswith("rank-")]
    by_rank = {stall.rank: stall for stall in stalls if stall is not None}
    dumps: dict[str, dict[int, list[Collective]]] = {backend: {} for backend in BACKENDS}
    for name in names:
        backend, _, rank = name.rpartition("-")
        if backend in dumps and rank.isdecimal():
            try:
                dumps[backend][int(rank)] = read_dump(paths.flight / name, len(nodes))
            except UserError as error:
                notes.append(str(error))
    gap = find_gap(dumps.values())
    return Hang(nodes, by_rank, gap, notes) if by_rank or gap or notes else None


def _read_nodes(paths: RunPaths, notes: list[str]) -> list[str]:
    try:
        data = read_whole(paths.rank_nodes)
    except OSError as error:
        notes.append(f"{paths.rank_nodes}: cannot be read: {error.strerror}")
        return []
    content, shape = None if data is None else parse_json(data), list_of(TEXT)
    if content is not None and not shape.fits(content):
        notes.append(f"{paths.rank_nodes}: not as shiftbench writes it: expected {shape.words}")
        content = None
    nodes: list[str] = content or []
    return nodes


def _read_stall(paths: RunPaths, name: str, notes: list[str]) -> Stall | None:
    path = paths.flight / name
    try:
        data = read_whole(path)
    except OSError as error:
        notes.append(f"{path}: cannot be read: {error.strerror}")
        return None
    if data is None:
        return None  # removed between listing and reading
    content = parse_json(data)
    if fault := fault_in(content, _SHAPES):
        notes.append(f"{path}: not as shiftbench writes it: {fault}")
        return None
    return Stall(**known(content, _SHAPES))
