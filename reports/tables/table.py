"""A table of values: columns, rows of cells, and which cells are surely the best of their block."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal

from reports.numbers import Number
from suite.metrics import Direction

# More rows are not read, and a page of them is slow.
MAX_ROWS = 200


@dataclass(frozen=True)
class Link:
    """A text that leads to `address`, which is relative and percent-encoded."""

    text: str
    address: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class StateCell:
    """The state of a run, such as completed."""

    name: str

    def __str__(self) -> str:
        return self.name


Cell = str | Number | Link | StateCell


@dataclass(frozen=True)
class Column:
    """A header and what its cells are: numbers stand to the right, sentences need room, paths break anywhere.

    `better`: which of the numbers in a block is the best one, if they compare at all.
    """

    header: str
    kind: Literal["number", "text", "sentence", "path"] = "number"
    better: Direction = "neither"


@dataclass(frozen=True)
class Table:
    """Cells in rows. The cells of `row_header` name their rows; `breaks` are rows that open a new block.

    `belongs`: for each row its values of the axes that readers filter by; a row without an axis fits every
    choice of it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    row_header: int = 0
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    breaks: frozenset[int] = frozenset()
    belongs: Sequence[Mapping[str, str]] = ()

    @property
    def texts(self) -> list[list[str]]:
        """The rows as plain text."""
        return [[str(cell) for cell in row] for row in self.rows]

    @cached_property
    def best(self) -> frozenset[tuple[int, int]]:
        """Row and column of the best number of each block, where its interval is apart from all others'.

        A number without an interval differs from none. A single one is not the best of anything.
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
        cells = {row: self.rows[row][column] for row in block}
        numbers = {row: c for row, c in cells.items() if isinstance(c, Number) and c.is_finite}
        if len(numbers) < 2 or any(one.interval is None for one in numbers.values()):
            return
        sign = 1 if better == "higher" else -1
        ends = {row: sorted(sign * end for end in one.interval or ()) for row, one in numbers.items()}
        best = max(numbers, key=lambda row: sign * numbers[row].value)
        if all(ends[best][0] > high for row, (_, high) in ends.items() if row != best):
            yield best


def cut_short(rows: int, order: str = "") -> list[str]:
    """The sentence that a table of so many rows needs, where they are more than it shows."""
    if rows <= MAX_ROWS:
        return []
    return [f"The first {MAX_ROWS} of {rows:,} rows{order}; results.csv and results.parquet have every run."]
