"""A table as text, as every format prints it: its columns, rows, best cells and links."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from reports.numbers import take_apart
from suite.metrics import Direction

# More rows nobody reads, and a page of them is slow.
MAX_ROWS = 200
MAX_NAMES = 8


@dataclass(frozen=True)
class Column:
    """A header; whether its cells are numbers (and stand to the right), or sentences (and need room).

    `better`: which of the numbers in a block is the best one, if they compare at all.
    """

    header: str
    numeric: bool = True
    wide: bool = False
    better: Direction = "neither"


@dataclass(frozen=True)
class Table:
    """A table as text. The cells of `row_header` name their rows; `breaks` are rows that open a new block.

    `links`: where a cell, given by row and column, leads to: a relative address, percent-encoded. `belongs`:
    for each row its values of the axes that readers filter by; an axis that it lacks fits every choice.
    """

    title: str
    columns: list[Column]
    rows: list[list[str]]
    row_header: int = 0
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    breaks: frozenset[int] = frozenset()
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    belongs: Sequence[Mapping[str, str]] = ()

    @cached_property
    def best(self) -> frozenset[tuple[int, int]]:
        """Row and column of the best number of each block, several where they print alike.

        Of two numbers or more: one alone is the best of nothing, and of equal ones none is.
        """
        starts = [0, *sorted(self.breaks), len(self.rows)]
        blocks = [range(start, end) for start, end in pairwise(starts)]
        return frozenset(
            (row, i)
            for i, column in enumerate(self.columns)
            if column.better != "neither"
            for block in blocks
            for row in self._best_of(block, i, column.better)
        )

    def _best_of(self, block: range, column: int, better: Direction) -> Iterator[int]:
        printed = {row: take_apart(self.rows[row][column]) for row in block}
        values = {row: number.value for row, number in printed.items() if number is not None}
        if len(set(values.values())) > 1:
            wanted = (max if better == "higher" else min)(values.values())
            yield from (row for row, value in values.items() if value == wanted)


def cut_short(rows: int, order: str = "") -> list[str]:
    """The sentence that a table of so many rows needs, where they are more than it shows."""
    if rows <= MAX_ROWS:
        return []
    return [f"The first {MAX_ROWS} of {rows:,} rows{order}; results.csv and results.parquet have every run."]


def listed(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Names in a sentence, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
