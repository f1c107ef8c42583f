"""The report's sentences: macros of templates/sentences.j2, filled with numbers."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports import stats
from reports.numbers import EMPTY, number, p_cell, plural, short


def sentence(macro: str, **values: object) -> str:
    """The text of a macro on one line; an unknown macro or argument raises."""
    fill: Callable[..., str] = getattr(_macros(), macro)
    return re.sub(r"[ \n]+", " ", fill(**values)).strip(" ")


def environment(escape: bool) -> Environment:
    """The templates; an undefined name in them raises."""
    return Environment(
        loader=PackageLoader("reports"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _macros() -> Any:
    made = environment(escape=False)
    made.filters |= {"short": short, "number": number, "p": p_cell}
    made.globals |= {"plural": plural, "stats": stats, "NBSP": "\u00a0", "EMPTY": EMPTY}
    return made.get_template("sentences.j2").module
