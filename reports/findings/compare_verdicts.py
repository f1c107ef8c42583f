"""What a comparison of two sets of runs comes to, in sentences."""

import math

import pandas as pd

from reports.aggregate import HARDWARE
from reports.findings.compare_seeds import OverSeeds, compare_over_seeds
from reports.findings.two_sides import COMPARED, Compared, MatchedRuns
from reports.frames import GROUP
from reports.numbers import number, p_cell, plural, short
from reports.sentences import sentence
from reports.stats import CONFIDENCE, Estimate, holm, judge

_MAX_NAMED = 3


def verdict_sentences(comparison: MatchedRuns, table: pd.DataFrame) -> list[str]:
    """One for each metric, over seeds: equal, the same, better, worse, or inconclusive.

    The same: the interval lies within the metric's margin. Better and worse: p, adjusted by Holm over the
    metrics, is below SIGNIFICANCE. `table`: that of `comparison_table`.
    """
    values = [comparison.values(metric) for metric in COMPARED]
    found = [compare_over_seeds(comparison, metric) for metric in COMPARED]
    adjusted = holm([one.p for one in found])
    texts = []
    for metric, pairs, one, p in zip(COMPARED, values, found, adjusted, strict=True):
        if one.estimate is None:
            texts.append(f"{metric.title}: no pair of runs measured it on both sides.")
        elif (pairs.a == pairs.b).all():
            texts.append(f"{metric.title}: equal to the last bit in {_all(len(pairs))}.")
        else:
            word = _word(metric, one.estimate, p)
            amount = _amount(metric, one.estimate, _over(one, one.estimate.n), p)
            texts.append(f"{metric.title}: {word}, {amount}{_cells(metric, table)}.")
    return texts


def _all(pairs: int) -> str:
    return "the one pair" if pairs == 1 else f"all {pairs} pairs"


def _word(metric: Compared, estimate: Estimate, p: float) -> str:
    neutral = 1.0 if metric.is_ratio else 0.0
    outcome = judge(estimate, p, neutral)
    if outcome == "too few seeds":
        return "too few seeds for a claim"
    if estimate.low is not None and estimate.high is not None:
        farthest = max(abs(estimate.low - neutral), abs(estimate.high - neutral))
        if farthest <= metric.margin:
            shown = f"{_up(farthest * 100)} %" if metric.is_ratio else f"{_up(farthest)} points"
            return f"the same within {shown}"
    if outcome == "inconclusive":
        return "inconclusive"
    return "B is better" if outcome == metric.direction else "B is worse"


def _up(value: float) -> str:
    """Rounded up to two significant digits, so that "within" stays true."""
    if value == 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step - 1e-9) * step:.2g}"


def _amount(metric: Compared, estimate: Estimate, over: str, p: float) -> str:
    if metric.is_ratio:
        value = f"× {short(estimate.mean)}"
    else:
        value = f"{'+' if estimate.mean > 0 else ''}{number(estimate.mean, 2)} points"
    parts = [over]
    if estimate.low is not None and estimate.high is not None:
        text = short if metric.is_ratio else lambda bound: number(bound, 2)
        parts.insert(0, f"{100 * CONFIDENCE:g}\u00a0% interval {text(estimate.low)} to {text(estimate.high)}")
    if not math.isnan(p):
        shown = str(p_cell(p))
        parts.append(f"p {shown}" if shown.startswith("<") else f"p = {shown}")
    return f"{value} ({', '.join(parts)})"


def _over(found: OverSeeds, seeds: int) -> str:
    """`3 seeds`, `3 seeds over 2 cells`, `3 of 4 seeds over the 2 of 5 cells that they share`."""
    text = plural(seeds, "seed") if seeds == found.all_seeds else f"{seeds} of {found.all_seeds} seeds"
    if found.all_cells == 1:
        return text
    if found.cells == found.all_cells:
        return f"{text} over {found.cells} cells"
    whose = "it has" if seeds == 1 else "they share"
    return f"{text} over the {found.cells} of {found.all_cells} cells that {whose}"


def _cells(metric: Compared, table: pd.DataFrame) -> str:
    """In how many cells B is the better one: a mean over unlike cells may hide that they disagree."""
    rows = table[table.metric == metric.column]
    if len(rows) < 2:
        return ""
    distance = rows.estimate - (1.0 if metric.is_ratio else 0.0)
    better = int((distance > 0).sum() if metric.direction == "higher" else (distance < 0).sum())
    return f"; better in {better} of {len(rows)} cells"


def coverage_notes(comparison: MatchedRuns) -> list[str]:
    """Which runs the comparison is over, and what makes it less than like with like."""
    pairs, done = comparison.pairs, comparison.completed
    notes = [f"{plural(len(pairs), 'run')} matched, of which {len(done)} completed on both sides."]
    for mine, other, only in zip(("A", "B"), ("B", "A"), comparison.only_in, strict=True):
        cells = only[only.whole_cell].drop_duplicates(GROUP)
        if len(cells):
            shown = cells.head(_MAX_NAMED)
            names = [f"{c.norm} at norm batch {c.norm_batch_size}" for _, c in shown.iterrows()]
            more = len(cells) - _MAX_NAMED
            notes.append(sentence("only_in", side=mine, cells=len(cells), names=names, more=more))
        if seeds := int((~only.whole_cell).sum()):
            notes.append(sentence("seeds_only_in", side=mine, runs=seeds))
        alone = pairs[pairs[f"state_{mine.lower()}"] == "completed"]
        states = alone[f"state_{other.lower()}"].value_counts().drop("completed", errors="ignore").to_dict()
        if states:
            notes.append(sentence("completed_on_one_side", side=mine, other=other, states=states))
    for side, skipped in zip("AB", comparison.skipped, strict=True):
        if skipped:
            reason = skipped[0].reason
            notes.append(sentence("not_read", side=side, reason=reason, more=len(skipped) - 1))
    if unlike := int((pairs.run_id_a != pairs.run_id_b).sum()):
        notes.append(sentence("unlike_pairs", pairs=unlike))
    return notes + _hardware_notes(done)


def _hardware_notes(done: pd.DataFrame) -> list[str]:
    sides = [done[[f"{name}_{side}" for name in HARDWARE]].astype(object) for side in "ab"]
    a, b = (side.where(side.notna(), None).set_axis(HARDWARE, axis=1) for side in sides)
    differ = ((a != b) & ~(a.isna() & b.isna())).any(axis=1)
    if not differ.any():
        return []
    names = [
        " and ".join(
            f"{d or 'unknown'} × {r or '?'}" for d, r in kinds.head(_MAX_NAMED).itertuples(index=False)
        )
        for kinds in (side[differ].drop_duplicates() for side in (a, b))
    ]
    return [sentence("different_hardware", pairs=int(differ.sum()), total=len(done), names=names)]
