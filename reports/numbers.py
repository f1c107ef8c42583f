"""Numbers to text, the same everywhere."""

import math
import re
from dataclasses import dataclass

from reports.stats import Estimate

EMPTY = "—"
_NUMBER = r"[−+]?\d[\d,]*(?:\.\d+)?(?:e[−+]\d+)?"
_PRINTED = re.compile(
    rf"(?P<mean>{_NUMBER})"
    rf"(?: ± (?P<half>{_NUMBER})| \[(?P<low>{_NUMBER}), (?P<high>{_NUMBER})\])?"
    r"(?: \((?P<remark>[^()]+)\))?"
)


@dataclass(frozen=True)
class Printed:
    """A number as it is printed, taken apart: `−1.20 ± 0.81 (2 seeds)`, or `1.20 [0.90, 1.30]`.

    Numbers are plain ASCII, as `float` and LaTeX read them; what is not there is empty.
    """

    mean: str
    half: str = ""
    low: str = ""
    high: str = ""
    remark: str = ""

    @property
    def value(self) -> float:
        return float(self.mean)


def take_apart(text: str) -> Printed | None:
    """The parts of what `estimate_text`, `number` and `short` write; None for any other text."""
    found = _PRINTED.fullmatch(text.replace("\u00a0", " "))
    if found is None:
        return None
    numbers = {part: _ascii(found[part] or "") for part in ("mean", "half", "low", "high")}
    return Printed(**numbers, remark=found["remark"] or "")


def _ascii(text: str) -> str:
    return text.replace(",", "").replace("−", "-").replace("e+", "e")


def estimate_text(
    estimate: Estimate | None,
    expected_n: int,
    decimals: int | None = None,
    factor: float = 1.0,
    say_one: bool = True,
    signed: bool = False,
) -> str:
    """`71.20 ± 0.81`; an interval that is not symmetric as `71.20 [70.10, 71.90]`.

    The seeds are added where one gives no interval, or where some lack the value. `signed`: with a plus.
    """
    if estimate is None:
        return EMPTY
    mean = estimate.mean * factor
    places = significant_decimals(mean) if decimals is None else decimals
    text = ("+" if signed and mean > 0 else "") + number(mean, places)
    if estimate.low is not None and estimate.high is not None:
        up, down = estimate.high - estimate.mean, estimate.mean - estimate.low
        if math.isclose(up, down, rel_tol=1e-6, abs_tol=1e-9 * abs(estimate.mean)):
            text += f" ± {number(up * factor, places)}"
        else:
            text += f" [{number(estimate.low * factor, places)}, {number(estimate.high * factor, places)}]"
    if (say_one and estimate.n == 1) or estimate.n < expected_n:
        text += f" ({plural(estimate.n, 'seed')})"
    return text


def bracket_text(estimate: Estimate | None) -> str:
    """`0.350 [0.310, 0.390]`, for what has no symmetric interval."""
    if estimate is None:
        return EMPTY
    places = significant_decimals(estimate.mean)
    if estimate.low is None or estimate.high is None:
        return f"{number(estimate.mean, places)} ({plural(estimate.n, 'seed')})"
    return (
        f"{number(estimate.mean, places)} [{number(estimate.low, places)}, {number(estimate.high, places)}]"
    )


def p_text(p: float) -> str:
    """`0.012`, or `< 0.001`."""
    if math.isnan(p):
        return EMPTY
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def significant_decimals(value: float, digits: int = 3) -> int:
    """Decimal places that show `digits` significant digits."""
    if value == 0 or not math.isfinite(value):
        return digits - 1
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def number(value: float, decimals: int) -> str:
    """With thousands apart and a true minus; tiny and huge numbers in powers of ten."""
    if value != 0 and (decimals > 6 or abs(value) >= 1e9):
        return f"{value:.2e}".replace("-", "−")
    return f"{value:,.{decimals}f}".replace("-", "−")


def short(value: float) -> str:
    """Three significant digits."""
    return number(value, significant_decimals(value))


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
