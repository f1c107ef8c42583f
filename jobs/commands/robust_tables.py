"""Prints what `shiftbench robust` measured of one network. No torch."""

import math

from rich.box import HEAVY_HEAD
from rich.console import Console

from suite.record import RobustnessRecord
from suite.specs.test_time_table import FROZEN, METHODS
from suite.terminal import print_rows, prose_console


def print_robustness(record: RobustnessRecord, title: str, taken: str | None) -> None:
    """Print a row for each shift, and one for each method on each stream."""
    console = prose_console()
    for text in (title, taken):
        if text is not None:
            console.print(text, markup=False, soft_wrap=True)
    clean = next(one for one in record.shifts if one.kind == "clean")
    headings = ["shift", "severity", "images", "top-1 (%)", "lost (%)", "ESM μ", "ESM σ"]
    rows = [
        [
            one.shift,
            "" if one.severity is None else str(one.severity),
            f"{one.num_images:,}",
            f"{one.top1_percent:.2f}",
            _percent(math.nan if one.kind == "clean" else one.share_lost_percent(clean)),
            _mean(one.esm_mu_scaled),
            _mean(one.esm_sigma_scaled),
        ]
        for one in record.shifts
    ]
    print_rows(console, headings, rows, numbers=range(1, 7), box=HEAVY_HEAD)
    console.print(
        "lost: share of the clean top-1 above chance; ESM: scaled, mean over the BN layers, the estimates of "
        "training against the shifted images"
    )
    if any(one.num_classes != record.shifts[0].num_classes for one in record.shifts):
        note = "Where a shift has fewer classes, the first guess is among those, on clean images too."
        console.print(note)
    if bad := sum(one.bad_images for one in record.shifts):
        console.print(f"{bad} files could not be decoded, and were left out")
    if record.test_time:
        _print_test_time(console, record)


def _print_test_time(console: Console, record: RobustnessRecord) -> None:
    headings, rows = ["stream", "order", "batch", "method", "top-1 (%)", "gained"], []
    unchanged = [one for one in record.test_time if one.method == FROZEN]
    frozen = {one.stream: one.top1_percent for one in unchanged}
    for one in record.test_time:
        before = frozen.get(one.stream, math.nan)
        name, severity = one.shifts[0]
        stream = name if severity is None else f"{name} {severity}"
        if len(one.shifts) > 1:
            stream = f"all {len(one.shifts)} mixed"
        gained = "" if one.method == FROZEN or math.isnan(before) else f"{one.top1_percent - before:+.2f}"
        order = {"mixed": "mixed", "by_label": "by label"}[one.order]
        batch = str(one.images_per_batch)
        rows.append([stream, order, batch, one.method, f"{one.top1_percent:.2f}", gained])
    print_rows(console, headings, rows, numbers=(2, 4, 5), box=HEAVY_HEAD)
    for name in dict.fromkeys(one.method for one in record.test_time):
        console.print(f"{name}: {METHODS[name].meaning} ({METHODS[name].source})")


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def _mean(values: tuple[float, ...]) -> str:
    return f"{math.fsum(values) / len(values):.3f}" if values else "–"
