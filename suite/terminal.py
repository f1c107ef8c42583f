"""Tables for a terminal, in which no name and no number is cut, however narrow the terminal is."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

LEAST_NAME = 12  # characters of a column of texts, which are folded


def prose_console() -> Console:
    """Return a console for sentences: on a terminal they break between words, elsewhere each is one line."""
    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def print_rows(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[int],
    title: str | None = None,
    box: Box | None = None,
    styles: Mapping[int, str] | None = None,
    breaks: Collection[int] = (),
) -> None:
    """Print a table. Texts are folded; a number stays in one piece, and words of headings stay whole.

    Two numbers with `and` between them may take two lines.

    `numbers`: which columns hold numbers, aligned at the right. `styles`: of rows. `breaks`: rows before
    which a line is drawn. Where even that is wider than the terminal, the lines are longer than it.
    """
    gaps = 3 * len(headings) + 1 if box is not None else 2 * len(headings)
    widths = _widths(headings, rows, numbers, console.width - gaps)
    table = Table(title=title, box=box, header_style="bold")
    for place, heading in enumerate(headings):
        justify: Literal["left", "right"] = "right" if place in numbers else "left"
        table.add_column(heading, justify=justify, width=widths[place], overflow="fold")
    for number, row in enumerate(rows):
        if number in breaks:
            table.add_section()
        table.add_row(*map(Text, row), style=(styles or {}).get(number, ""))
    former = console.width
    console.width = max(former, sum(widths) + gaps)
    try:
        console.print(table)
    finally:
        console.width = former


def _widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int], room: int
) -> list[int]:
    """Return the columns' widths, within `room` if that can be.

    First the headings of numbers give way, between their words, then texts, the longest first, and at last
    cells of two numbers.
    """
    longest = [max((len(row[place]) for row in rows), default=0) for place in range(len(headings))]
    words = [max(map(len, heading.split()), default=0) for heading in headings]
    widths = [max(pair) for pair in zip(longest, map(len, headings), strict=True)]
    texts = [place for place in range(len(headings)) if place not in numbers]
    names = [min(one, LEAST_NAME) for one in longest]
    pieces = [max((_piece(row[place]) for row in rows), default=0) for place in range(len(headings))]
    # Of texts the widest gives way first, of numbers the one that is widest beside what it needs.
    for places, least in ((numbers, longest), (texts, names), (numbers, pieces)):
        floor = [max(pair) for pair in zip(words, least, strict=True)]
        while sum(widths) > room and (wide := [i for i in places if widths[i] > floor[i]]):
            widths[max(wide, key=lambda i: widths[i] - (0 if places is texts else least[i]))] -= 1
    return widths


def _piece(cell: str) -> int:
    """Return the width of `0.1 and 0.25` on two lines; of another cell its own."""
    first, between, second = cell.partition(" and ")
    return max(len(first + between.rstrip()), len(second))
