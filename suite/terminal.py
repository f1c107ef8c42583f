"""Tables for a terminal, in which no name and no number is cut, however narrow the terminal is."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

LEAST_NAME = 12  # characters of a column of texts, which are folded


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

    First the headings of numbers give way, between their words, and then texts, the longest first.
    """
    longest = [max((len(row[place]) for row in rows), default=0) for place in range(len(headings))]
    words = [max(map(len, heading.split()), default=0) for heading in headings]
    widths = [max(pair) for pair in zip(longest, map(len, headings), strict=True)]
    texts = [place for place in range(len(headings)) if place not in numbers]
    for places, least in ((numbers, 0), (texts, LEAST_NAME)):
        floor = [max(words[i], min(longest[i], least) if least else longest[i]) for i in range(len(headings))]
        while sum(widths) > room and (wide := [i for i in places if widths[i] > floor[i]]):
            widths[max(wide, key=lambda i: widths[i] - (0 if least else longest[i]))] -= 1
    return widths
