"""Text and tables as GitHub-flavoured Markdown."""

import re
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment

from reports.sentences import environment
from reports.tables.table import Link, Table


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a paragraph or in a table's cell."""
    flat = " ".join(str(text).split())
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(table: Table) -> str:
    """A pipe table."""
    lines = [[escape_markdown(column.header) for column in table.columns]]
    lines.append(["---:" if column.kind == "number" else "---" for column in table.columns])
    lines += [[_cell(table, i, j) for j in range(len(row))] for i, row in enumerate(table.rows)]
    return "\n".join(_row(cells) for cells in lines)


def _cell(table: Table, row: int, column: int) -> str:
    cell = table.rows[row][column]
    text = escape_markdown(str(cell))
    if (row, column) in table.best:
        return f"**{text}**"
    return f"[{text}]({cell.address})" if isinstance(cell, Link) else text


def fill(template: str, **values: object) -> str:
    """The text of a Markdown template."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    made = environment(escape=False)
    made.filters |= {"md": escape_markdown, "md_table": markdown_table}
    return made


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
