"""Numbers to text, the same everywhere."""

import math

from reports.stats import Estimate

EMPTY = "—"


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
        return f"{number(estimate.mean, places)} (1 seed)"
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
