"""The page of `shiftbench diagnose`: one HTML file that requests nothing, from plain values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.numbers import EMPTY, Number
from reports.sentences import environment
from suite import __version__
from suite.errors import UserError
from suite.files import write_atomically

WIDTH = 100.0  # of a drawn interval, in the units of its viewBox


def write_diagnosis(diagnosis: Mapping[str, Any], out: Path) -> Path:
    """Write index.html into `out`, which is made when missing, and return its path.

    `diagnosis`: what `suite.shift.Diagnosis.to_dict` returns, with network, data, input, weights,
    images_per_batch and bad_images. Raises UserError when it cannot be written.
    """
    page = out / "index.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(page, render_diagnosis(diagnosis))
    except OSError as error:
        raise UserError(f"{out}: the page cannot be written: {error.strerror}") from None
    return page


def render_diagnosis(diagnosis: Mapping[str, Any]) -> str:
    """The page, with its style and drawings inside it."""
    made = environment(escape=True)
    # A number stays with its percent sign.
    made.filters["joined"] = lambda text: text.replace(" %", "\u00a0%")
    made.filters |= {"points": points, "percent": lambda value: str(Number(value, 1))}
    made.globals |= {"scale": Scale([one["gives_back"] for one in diagnosis["remedies"]])}
    return made.get_template("diagnosis.html.j2").render(d=diagnosis, version=__version__)


def points(change: Mapping[str, float] | None) -> str:
    """`+31.9 [28.6, 35.0]`, or a dash where there is none."""
    if change is None:
        return EMPTY
    return str(Number(change["points"], 1, bounds=(change["low"], change["high"]), signed=True))


class Scale:
    """Places points of top-1 along a drawing of the width WIDTH, from all intervals and zero."""

    def __init__(self, changes: Sequence[Mapping[str, float]]) -> None:
        ends = [0.0, *(change[name] for change in changes for name in ("low", "high"))]
        margin = 0.04 * (max(ends) - min(ends) or 1.0)
        self.low, self.high = min(ends) - margin, max(ends) + margin

    def x(self, value: float) -> float:
        """Where a number of points is drawn."""
        return round(WIDTH * (value - self.low) / (self.high - self.low), 2)
