"""Numbers with the digits that are printed, and their text."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports.stats import Estimate

EMPTY = "—"
MAX_NAMES = 8


@dataclass(frozen=True)
class Number:
    """A number as every format prints it: `−1.20 ± 0.81 (3 seeds)`, `1.20 [0.90, 1.30]` or `× 0.35`.

    `half`: half the width of a symmetric interval. `bounds`: low and high of any other interval. `both`: the
    two values that this is the mean of; it is then printed as `1.15 and 1.25`. `remark`: follows in
    parentheses. `signed`: with a plus. `grouped`: with commas between thousands.
    """

    value: float
    decimals: int = 0
    half: float | None = None
    bounds: tuple[float, float] | None = None
    both: tuple[float, float] | None = None
    remark: str = ""
    unit: str = ""
    prefix: str = ""
    signed: bool = False
    grouped: bool = True

    def __str__(self) -> str:
        if self.both is not None:
            text = " and ".join(self.prefix + self._shown(value) for value in self.both)
        else:
            text = self.prefix + (self._shown(self.value) if self.grouped else self.mean)
        if self.half is not None:
            text += f" ± {number(self.half, self.decimals)}"
        if self.bounds is not None:
            text += f" [{', '.join(number(bound, self.decimals) for bound in self.bounds)}]"
        text += f" ({self.remark})" if self.remark else ""
        return f"{text} {self.unit}" if self.unit else text

    def _shown(self, value: float) -> str:
        return ("+" if self.signed and value > 0 else "") + number(value, self.decimals)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.value)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends, if it has one."""
        return (self.value - self.half, self.value + self.half) if self.half is not None else self.bounds

    @property
    def mean(self) -> str:
        """The value alone in ASCII, as `float` and LaTeX read it."""
        sign = "+" if self.signed and self.value > 0 else ""
        return sign + ascii_number(self.value, self.decimals)


def estimate_cell(
    estimate: Estimate | None,
    expected_n: int,
    decimals: int | None = None,
    factor: float = 1.0,
    say_one: bool = True,
    signed: bool = False,
) -> Number | str:
    """`71.20 ± 0.81`; an interval that is not symmetric as `71.20 [70.10, 71.90]`; of two, `70.9 and 71.5`.

    `expected_n`: the remark names the seeds where fewer have the value, or where there is only one.
    `decimals`: at most; digits that the interval leaves open are not printed.
    """
    if estimate is None:
        return EMPTY
    mean, half, bounds = estimate.mean * factor, None, None
    both = None if estimate.both is None else (estimate.both[0] * factor, estimate.both[1] * factor)
    if estimate.interval is not None:
        low, high = estimate.interval
        up, down = high - estimate.mean, estimate.mean - low
        if math.isclose(up, down, rel_tol=1e-6, abs_tol=1e-9 * abs(estimate.mean)):
            half = up * factor
        else:
            bounds = low * factor, high * factor
    is_short = (say_one and estimate.n == 1) or estimate.n < expected_n
    places = significant_decimals(_largest(mean, both)) if decimals is None else decimals
    places = carried(places, estimate, factor)
    remark = plural(estimate.n, "seed") if is_short else ""
    return Number(mean, places, half, bounds, both, remark, signed=signed)


def bracket_cell(estimate: Estimate | None, prefix: str = "") -> Number | str:
    """`0.350 [0.310, 0.390]`, for what has no symmetric interval; of two values, both."""
    if estimate is None:
        return EMPTY
    both, ends = estimate.both, estimate.interval
    places = carried(significant_decimals(_largest(estimate.mean, both)), estimate)
    remark = plural(estimate.n, "seed") if both is None and ends is None else ""
    return Number(estimate.mean, places, bounds=ends, both=both, remark=remark, prefix=prefix)


def carried(decimals: int, estimate: Estimate, factor: float = 1.0) -> int:
    """`decimals`, or fewer where two significant digits of half the interval have fewer."""
    if estimate.interval is None or not (width := estimate.interval[1] - estimate.interval[0]):
        return decimals
    return min(decimals, significant_decimals(width * factor / 2, 2))


def _largest(mean: float, both: tuple[float, float] | None) -> float:
    """The number whose digits decide the decimals: of two values the larger, since their mean may be zero."""
    return mean if both is None else max(map(abs, both))


def p_cell(p: float) -> Number | str:
    """`0.012`, or `< 0.001`."""
    if math.isnan(p):
        return EMPTY
    if p < 0.001:
        return "< 0.001"
    # Two significant digits without trailing zeros, but never more than two decimals from 0.1 on.
    return Number(p, len(f"{p:.2g}".partition(".")[2]) if p < 0.1 else 2)


def short_cell(value: float) -> Number | str:
    """Three significant digits; empty for NaN."""
    return EMPTY if math.isnan(value) else Number(value, significant_decimals(value))


def count_cell(value: int) -> Number:
    """A whole number without commas."""
    return Number(value, grouped=False)


def significant_decimals(value: float, digits: int = 3) -> int:
    """Decimal places that show `digits` significant digits."""
    if value == 0 or not math.isfinite(value):
        return digits - 1
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def number(value: float, decimals: int) -> str:
    """With commas between thousands and a true minus; tiny and huge numbers in powers of ten."""
    if _has_exponent(value, decimals):
        return f"{value:.2e}".replace("-", "−")
    return f"{value:,.{decimals}f}".replace("-", "−")


def ascii_number(value: float, decimals: int) -> str:
    """The digits of `number` without commas: `-1234.5`, `4.10e13`."""
    if _has_exponent(value, decimals):
        return f"{value:.2e}".replace("e+", "e")
    return f"{value:.{decimals}f}"


def _has_exponent(value: float, decimals: int) -> bool:
    return value != 0 and not isinstance(value, int) and (decimals > 6 or abs(value) >= 1e9)


def short(value: float) -> str:
    """Three significant digits."""
    return number(value, significant_decimals(value))


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def listed(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Names in a sentence, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def all_have(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """`A and B both have`; of more names, `A, B and C all have`, or how many more there are."""
    if len(names) > most:
        return f"{listed(names, most)} all have"
    return f"{', '.join(names[:-1])} and {names[-1]} {'both' if len(names) == 2 else 'all'} have"


def natural_key(text: object) -> list[tuple[int, int, str]]:
    """By which names sort as people count: resnet50 before resnet101, GN8 before GN32."""
    parts = re.findall(r"0*([0-9]+)|([^0-9]+)", str(text))
    return [(0, len(digits), digits) if digits else (1, 0, word.casefold()) for digits, word in parts]


def natural_ranks(names: Iterable[object]) -> dict[object, int]:
    """Each name's place among these in natural order; of names that differ in case alone, in theirs."""
    ordered = sorted(set(names), key=lambda name: (natural_key(name), str(name)))
    return {name: place for place, name in enumerate(ordered)}
