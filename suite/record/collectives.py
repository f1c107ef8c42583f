"""The collectives that ranks have entered, by the dumps of torch's flight recorder; who is missing."""

import io
import json
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from suite.errors import UserError
from suite.record.shapes import described

MAX_BYTES = 2**26  # of a dump; a thousand times what ours take


class Collective(NamedTuple):
    """One that a rank has entered. `number` counts those of its group, whose ranks are `members`."""

    group: str
    members: tuple[int, ...]
    number: int
    name: str
    is_done: bool
    created_ns: int


@dataclass(frozen=True)
class Gap:
    """The first collective that some ranks have entered and that has not ended.

    `waiting`: ranks that entered it. `missing`: ranks whose dumps show that they did not. `silent`: members
    without a dump. `others`: what a minority of ranks called in its place.
    """

    collective: Collective
    waiting: list[int]
    missing: list[int] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    others: dict[int, str] = field(default_factory=dict)

    @property
    def suspects(self) -> list[int]:
        """The ranks for which the others wait; empty where all have entered the same collective.

        Those whose own dumps show it, if there are any: a rank without a dump may have died with the job.
        """
        return sorted({*self.missing, *self.others}) or self.silent


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and mappings, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and a dump holds plain values only")


def read_dump(path: Path, world_size: int) -> list[Collective]:
    """Return the collectives of a dump, oldest first. Raises UserError for a file that is none.

    `world_size`: the ranks of a group whose members the dump does not tell.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path}: {size:,} bytes are more than a dump of collectives has")
        content = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # a damaged pickle may raise anything
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a dump of collectives: {error or type(error).__name__}") from None
    try:
        groups = {name: tuple(json.loads(one["ranks"])) for name, one in content["pg_config"].items()}
        everyone = tuple(range(world_size))
        return [
            Collective(
                group=str(one["process_group"][0]),
                members=groups.get(one["process_group"][0], everyone),
                number=int(one["collective_seq_id"]),
                name=str(one["profiling_name"]).partition(":")[2] or str(one["profiling_name"]),
                is_done=one["state"] == "completed" or one["retired"],  # of gloo the latter alone tells
                created_ns=int(one["time_created_ns"]),
            )
            for one in content["entries"]
            if not one.get("is_p2p", False)
        ]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__} {described(str(error))}"
        raise UserError(f"{path}: not a dump of collectives as torch writes it: {found}") from None


def find_gap(dumps: Iterable[Mapping[int, Sequence[Collective]]]) -> Gap | None:
    """Return for which ranks the others wait, by the dumps of each backend; None where nothing is pending.

    Where several groups wait, the collective that was begun first counts: the others may follow from it. One
    that all of its ranks have entered counts last.
    """
    gaps = list[Gap]()
    for by_rank in dumps:
        groups: dict[tuple[str, tuple[int, ...]], dict[int, list[Collective]]] = defaultdict(dict)
        for rank, entered in by_rank.items():
            for one in entered:
                groups[one.group, one.members].setdefault(rank, []).append(one)
        gaps += [gap for group in groups.values() if (gap := _gap_of_group(group, by_rank)) is not None]
    return min(gaps, key=lambda gap: (not gap.suspects, gap.collective.created_ns), default=None)


def _gap_of_group(group: Mapping[int, Sequence[Collective]], dumped: Mapping[int, Any]) -> Gap | None:
    pending = [one for entered in group.values() for one in entered if not one.is_done]
    if not pending:
        return None
    number = min(one.number for one in pending)
    names = {rank: one.name for rank, entered in group.items() for one in entered if one.number == number}
    usual = Counter(names.values()).most_common(1)[0][0]
    first = min((one for one in pending if one.number == number), key=lambda one: one.name != usual)
    last = {rank: max(one.number for one in entered) for rank, entered in group.items()}
    return Gap(
        first,
        waiting=sorted(rank for rank, name in names.items() if name == usual),
        missing=[rank for rank in first.members if rank in dumped and last.get(rank, -1) < number],
        silent=[rank for rank in first.members if rank not in dumped],
        others={rank: name for rank, name in names.items() if name != usual},
    )
