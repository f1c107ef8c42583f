"""Text and tables as GitHub-flavoured Markdown."""

import re
from collections.abc import Sequence

from reports.tables.table import Table


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it stands, in a paragraph or in a table's cell."""
    flat = " ".join(str(text).split())
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(table: Table) -> str:
    """A pipe table."""
    lines = [[escape_markdown(column.header) for column in table.columns]]
    lines.append(["---:" if column.numeric else "---" for column in table.columns])
    lines += [[_cell(table, i, j) for j in range(len(row))] for i, row in enumerate(table.rows)]
    return "\n".join(_row(cells) for cells in lines)


def _cell(table: Table, row: int, column: int) -> str:
    text = escape_markdown(table.rows[row][column])
    if (row, column) in table.best:
        return f"**{text}**"
    link = table.links.get((row, column))
    return text if link is None else f"[{text}]({link})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
