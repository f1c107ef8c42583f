"""Text and tables as GitHub-flavoured Markdown."""

import re
from collections.abc import Sequence

from reports.tables import Table


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it stands, in a paragraph or in a table's cell."""
    flat = " ".join(str(text).split())
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(table: Table) -> str:
    """A pipe table."""
    lines = [[escape_markdown(column.header) for column in table.columns]]
    lines.append(["---:" if column.numeric else "---" for column in table.columns])
    lines += [[escape_markdown(cell) for cell in row] for row in table.rows]
    return "\n".join(_row(cells) for cells in lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
