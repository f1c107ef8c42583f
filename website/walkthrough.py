"""Makes a notebook and a page of examples/walkthrough.py, whose cells begin with `# %%`: `make notebook`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "walkthrough.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")


@dataclass(frozen=True)
class Cell:
    """A cell: Markdown, or Python."""

    is_markdown: bool
    text: str


def cells_of(script: str) -> list[Cell]:
    """Return the cells of a script in the percent format. Raises ValueError for text before the first."""
    before, *parts = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)
    if before.strip():
        raise ValueError(f"a script of cells begins with # %%, and not with {before.splitlines()[0]!r}")
    kinds, texts = parts[::2], parts[1::2]
    return [_cell(kind.strip(), text.strip("\n")) for kind, text in zip(kinds, texts, strict=True)]


def _cell(kind: str, text: str) -> Cell:
    if kind == "":
        return Cell(False, text)
    if kind != "[markdown]":
        raise ValueError(f"a cell begins with # %% or # %% [markdown], and not with # %% {kind}")
    return Cell(True, re.sub(r"^# ?", "", text, flags=re.MULTILINE))


def notebook(cells: list[Cell]) -> str:
    """Return a notebook without outputs (format 4.5), as JSON."""
    content = {
        "cells": [_notebook_cell(number, cell) for number, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _notebook_cell(number: int, cell: Cell) -> dict[str, object]:
    common = {"id": f"cell-{number}", "metadata": {}, "source": cell.text.splitlines(keepends=True)}
    if cell.is_markdown:
        return {"cell_type": "markdown", **common}
    return {"cell_type": "code", "execution_count": None, "outputs": [], **common}


def page(cells: list[Cell]) -> str:
    """Return a page in Markdown."""
    return "\n\n".join(c.text if c.is_markdown else f"```python\n{c.text}\n```" for c in cells) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(cells_of(SCRIPT.read_text())))
