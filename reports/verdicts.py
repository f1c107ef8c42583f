"""The answer in sentences: at the smallest norm batch, does XBN shift less than BN, and is it more accurate?

Every number in them is computed here, over seeds that both sides completed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from reports.frames import CONTEXT, Frames
from reports.numbers import number, plural, short
from reports.stats import MIN_SEEDS_FOR_A_CLAIM, Estimate, paired_difference, paired_ratio


@dataclass(frozen=True)
class Verdict:
    """Where it holds (model, data, batch), and a sentence for each XBN variant that was run there."""

    where: str
    sentences: list[str]


def verdicts(frames: Frames) -> list[Verdict]:
    """One for each model, data set and batch layout, at the smallest norm batch run with BN layers."""
    found: list[Verdict] = []
    runs = frames.runs[frames.runs.counted]
    several = runs.global_batch_size.nunique() > 1
    for _, context in runs.groupby(CONTEXT, sort=False):
        with_bn = context[context.norm_rank < 2]  # what has no BN does not depend on the norm batch
        smallest = with_bn[with_bn.norm_batch_size == with_bn.norm_batch_size.min()]
        two_axes = smallest.batch_size_per_gpu.nunique() > 1
        for per_gpu, cell in smallest.groupby("batch_size_per_gpu", sort=False):
            where = _where(cell, several, per_gpu if two_axes else None)
            found.append(Verdict(where, _sentences(cell)))
    return found


def _where(cell: pd.DataFrame, several_global: bool, per_gpu: int | None) -> str:
    first = cell.iloc[0]
    parts = [f"{first.arch} on {first.data}", first.settings]
    parts.append(f"global batch {first.global_batch_size}" if several_global else "")
    parts.append(f"batch per GPU {per_gpu}" if per_gpu is not None else "")
    return f"{', '.join(filter(None, parts))}, at norm batch {first.norm_batch_size}"


def _sentences(cell: pd.DataFrame) -> list[str]:
    baseline, xbn = cell[cell.norm_rank == 0], cell[cell.norm_rank == 1]
    if baseline.empty or xbn.empty:
        return [f"Only {', '.join(cell.norm.unique())} was run, so XBN and BN cannot be compared."]
    return [_compare(str(label), ours, baseline) for label, ours in xbn.groupby("norm", sort=False)]


def _compare(label: str, ours: pd.DataFrame, baseline: pd.DataFrame) -> str:
    shift = paired_ratio(_by_seed(ours, "esm_sigma_common"), _by_seed(baseline, "esm_sigma_common"))
    accuracy = paired_difference(_by_seed(ours, "top1_percent"), _by_seed(baseline, "top1_percent"))
    if shift is None and accuracy is None:
        return f"No seed has results of both {label} and BN{_left_out(label, ours, baseline)}."
    text = f"{_shift(label, shift, ours, baseline)}; {_accuracy(accuracy)}"
    seeds = min((e.n for e in (shift, accuracy) if e is not None), default=MIN_SEEDS_FOR_A_CLAIM)
    if seeds < MIN_SEEDS_FOR_A_CLAIM:
        text += f"; {plural(seeds, 'paired seed')}, so no claim of significance"
    return f"{text}{_left_out(label, ours, baseline)}."


def _left_out(label: str, ours: pd.DataFrame, baseline: pd.DataFrame) -> str:
    counts = [
        (name, (runs.state != "completed").sum(), len(runs))
        for name, runs in ((label, ours), ("BN", baseline))
    ]
    missing = [f"{count} of {plural(total, f'{name} run')}" for name, count, total in counts if count]
    return f" (left out, not completed: {', '.join(missing)})" if missing else ""


def _by_seed(runs: pd.DataFrame, metric: str) -> dict[int, float]:
    done = runs[runs.state == "completed"]
    return {int(seed): float(v) for seed, v in zip(done.seed, done[metric], strict=True) if math.isfinite(v)}


def _shift(label: str, ratio: Estimate | None, ours: pd.DataFrame, baseline: pd.DataFrame) -> str:
    if ratio is None:
        return f"No seed measured the common layers' mean ESM σ with both {label} and BN"
    a, b = (_by_seed(runs, "esm_sigma_common") for runs in (ours, baseline))
    paired = a.keys() & b.keys()
    count = f"lower in {sum(a[s] < b[s] for s in paired)} of {plural(len(paired), 'paired seed')}"
    words = ("is", "is below BN's, at", "is above BN's, at", "is not told apart from BN's, at")
    value = f"{_claim(ratio, 1.0, words)} {short(ratio.mean)} × BN's ({_interval(ratio, short)}, {count})"
    return f"{label}'s mean ESM σ over the common layers {value}"


def _accuracy(difference: Estimate | None) -> str:
    if difference is None:
        return "no seed has a final top-1 with both"
    words = (
        "differs from BN's by",
        "is lower than BN's, by",
        "is higher than BN's, by",
        "is not told apart from BN's, at",
    )
    interval = f"{_interval(difference, _signed)}, {plural(difference.n, 'paired seed')}"
    return f"its final top-1 {_claim(difference, 0.0, words)} {_signed(difference.mean)} points ({interval})"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value, 2)


def _interval(estimate: Estimate, text: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval from one seed"
    return f"95\u00a0% interval {text(estimate.low)} to {text(estimate.high)}"


def _claim(estimate: Estimate, neutral: float, words: tuple[str, str, str, str]) -> str:
    """Of (plain, below, above, inconclusive) the words that the estimate allows: plain for too few seeds."""
    plain, below, above, inconclusive = words
    if estimate.n < MIN_SEEDS_FOR_A_CLAIM:
        return plain
    if not estimate.excludes(neutral):
        return inconclusive
    return below if estimate.mean < neutral else above
