"""The bars of a launch on a terminal: one for all runs, and for each run that trains one by steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

WIDE = 120  # characters, from which on a run takes one line
BAR = 20
HEIGHT_OF_REST = 6  # lines of a terminal that are left to what is printed above


@dataclass(frozen=True)
class Bars:
    """What is shown of all runs and of each: a title, the share that is done, and what else is known."""

    total: tuple[str, float, Sequence[str]]
    runs: Sequence[tuple[str, float, Sequence[str]]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = 1 if options.max_width >= WIDE else 2
        room = max(1, (console.height - HEIGHT_OF_REST) // lines)
        title, share, facts = self.total
        yield from _row(Text(title, "bold"), share, facts, options.max_width, lines=1)
        for label, part, facts in self.runs[:room]:
            yield from _row(Text(label), part, facts, options.max_width, lines)
        if (more := len(self.runs) - room) > 0:
            yield Text(f"and {more} more runs that train", "dim")


def _row(title: Text, share: float, facts: Sequence[str], width: int, lines: int) -> Iterator[Text | Table]:
    """Yield a title with a bar and facts behind it, or in a second line below it."""
    bar = ProgressBar(total=1.0, completed=share, width=min(BAR, width // 4))
    rest = Text(", ".join(facts), "dim")
    row = Table.grid(padding=(0, 1))
    if lines == 2:
        yield title
        title = Text("")
    row.add_row(title, bar, Text(f"{100 * share:3.0f} %"), rest)
    yield row
