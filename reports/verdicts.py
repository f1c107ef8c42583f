"""The answer in sentences: at the smallest norm batch, does XBN shift less than BN, and is it more accurate?

Every number in them is computed here, over seeds that both sides completed.
"""

import math

import pandas as pd

from reports.frames import CONTEXT, Frames
from reports.numbers import number, plural, short
from reports.stats import MIN_SEEDS_FOR_A_CLAIM, Estimate, paired_difference, paired_ratio


def verdicts(frames: Frames) -> list[str]:
    """One sentence for each model and XBN variant, at the smallest norm batch that was run."""
    found: list[str] = []
    runs = frames.runs[frames.runs.counted]
    several = runs.global_batch_size.nunique() > 1
    for _, context in runs.groupby(CONTEXT, sort=False):
        smallest = context[context.norm_batch_size == context.norm_batch_size.min()]
        for per_gpu, cell in smallest.groupby("batch_size_per_gpu", sort=False):
            where = _where(cell, several, per_gpu if smallest.batch_size_per_gpu.nunique() > 1 else None)
            variants = cell[cell.norm_rank == 1].norm.unique()
            baseline = cell[cell.norm_rank == 0]
            if len(variants) == 0 or baseline.empty:
                present = ", ".join(cell.norm.unique())
                found.append(f"{where}: only {present} was run, so there is no comparison of XBN with BN.")
            found += [] if baseline.empty else [
                f"{where}: {_compare(label, cell[cell.norm == label], baseline)}" for label in variants
            ]
    return found


def _where(cell: pd.DataFrame, several_global: bool, per_gpu: int | None) -> str:
    first = cell.iloc[0]
    parts = [f"{first.arch} on {first.data}"]
    if first.settings:
        parts.append(first.settings)
    if several_global:
        parts.append(f"global batch {first.global_batch_size}")
    if per_gpu is not None:
        parts.append(f"batch per GPU {per_gpu}")
    return f"{', '.join(parts)}, at norm batch {first.norm_batch_size}"


def _compare(label: str, ours: pd.DataFrame, baseline: pd.DataFrame) -> str:
    missing = [f"{name} {len(d[d.state != 'completed'])} of {plural(len(d), 'run')}"
               for name, d in ((label, ours), ("BN", baseline)) if (d.state != "completed").any()]
    parts = [_shift(label, ours, baseline), _accuracy(label, ours, baseline)]
    if missing:
        parts.append(f"not completed and left out: {', '.join(missing)}")
    return "; ".join(parts) + "."


def _by_seed(runs: pd.DataFrame, metric: str) -> dict[int, float]:
    values = runs[runs.state == "completed"].set_index("seed")[metric]
    return {int(str(seed)): float(v) for seed, v in values.items() if math.isfinite(v)}


def _shift(label: str, ours: pd.DataFrame, baseline: pd.DataFrame) -> str:
    a, b = (_by_seed(runs, "esm_sigma_common") for runs in (ours, baseline))
    ratio = paired_ratio(a, b)
    if ratio is None:
        return f"no seed has a mean ESM σ of both {label} and BN"
    lower = sum(a[seed] < b[seed] for seed in a.keys() & b.keys())
    return (
        f"{label}'s mean ESM σ over the common layers is {short(ratio.mean)} × BN's"
        f"{_interval(ratio, short)}, lower in {lower} of {plural(ratio.n, 'paired seed')}"
        f"{_claim(ratio, 1.0, 'below BN', 'above BN')}"
    )


def _accuracy(label: str, ours: pd.DataFrame, baseline: pd.DataFrame) -> str:
    difference = paired_difference(_by_seed(ours, "top1_percent"), _by_seed(baseline, "top1_percent"))
    if difference is None:
        return f"no seed has a final top-1 of both {label} and BN"
    return (
        f"its final top-1 differs from BN's by {_signed(difference.mean)} points"
        f"{_interval(difference, _signed)} over {plural(difference.n, 'paired seed')}"
        f"{_claim(difference, 0.0, 'worse', 'better')}"
    )


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value, 2)


def _interval(estimate: Estimate, text: "type[str] | object") -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    assert callable(text)
    return f" (95 % interval {text(estimate.low)} to {text(estimate.high)})"


def _claim(estimate: Estimate, neutral: float, below: str, above: str) -> str:
    if estimate.n < MIN_SEEDS_FOR_A_CLAIM:
        return f" ({plural(estimate.n, 'seed')}: no claim of significance)"
    if not estimate.excludes(neutral):
        return ": inconclusive"
    return f": {below if estimate.mean < neutral else above}"
