"""Reads Slurm's lists of nodes, such as `node[01-03,7],login1`, where no scontrol is there to ask."""

import itertools
import re
from collections.abc import Iterator

from suite.errors import UserError

_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_ITEM = r"(?:[\w.-]+|\[[\d,-]+\])+"  # names and brackets, one behind the other: rack[0-1]n[08-11]-ib
_LIST = re.compile(rf"{_ITEM}(?:,+{_ITEM})*", re.ASCII)


def node_names(node_list: str) -> list[str]:
    """Return the names of a list's nodes in its order, as `scontrol show hostnames` prints them.

    Numbers keep their leading zeros, and the last bracket of a name counts fastest. Raises UserError for a
    text that is no such list.
    """
    if _LIST.fullmatch(node_list) is None:
        raise _no_list(node_list)
    names: list[str] = []
    for item in re.findall(_ITEM, node_list, re.ASCII):
        parts = re.split(r"\[(.*?)\]", item)  # every second one was in brackets
        choices = [
            list(_numbers(part, node_list)) if place % 2 else [part] for place, part in enumerate(parts)
        ]
        names += map("".join, itertools.product(*choices))
    return names


def _numbers(ranges: str, node_list: str) -> Iterator[str]:
    """Yield the numbers of `01-03,7`, each with as many digits as its range begins with."""
    for part in ranges.split(","):
        match = _RANGE.fullmatch(part)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise _no_list(node_list)
        for number in range(int(match[1]), int(match[2] or match[1]) + 1):
            yield f"{number:0{len(match[1])}d}"


def _no_list(text: str) -> UserError:
    return UserError(f"{text!r:.120} is not a list of nodes as Slurm writes it, such as node[01-03,7]")
