"""The answer in sentences: does a norm beat the baseline, at which norm batches, and does it shift less?

Every number in them is in the table of `reports.findings.baseline`, over seeds that both sides
completed.
"""

from dataclasses import dataclass, field

import pandas as pd

from reports.accuracy import accuracy_name
from reports.aggregate import UNFINISHED, estimate_of, summarise
from reports.findings.baseline import BASELINE
from reports.frames import CONTEXT, Frames
from reports.numbers import EMPTY, estimate_cell, number, p_cell, plural, short

MAX_SENTENCES = 20
MAX_IN_ONE_PLACE = 6
# More norm batches than these share one range instead of having an interval each.
_MAX_AMOUNTS = 3
_MAX_LEFT_OUT = 6
_OUTCOMES = ("better", "worse", "inconclusive", "too few seeds", "no pairs")


@dataclass(frozen=True)
class Verdict:
    """Where it holds (model, data, batch), and a sentence or two for each norm that was run there.

    `caveats`: what is left out of them.
    """

    where: str
    sentences: list[str]
    caveats: list[str] = field(default_factory=list)


def verdicts(frames: Frames, comparison: pd.DataFrame, baseline: str) -> list[Verdict]:
    """For each model, data set and batch layout: what beats the baseline first, then what loses to it.

    `comparison`: what `against_baseline` gives for the same frames and baseline. The last verdict says how
    many comparisons have no sentence, and where they are.
    """
    cells = _begun(summarise(frames, []))
    comparison = _begun(comparison, BASELINE)
    # Where a norm batch was run with several batches per GPU, each has its own verdict.
    apart = bool(comparison.duplicated([*CONTEXT, "norm", "norm_batch_size"]).any())
    keys = [*CONTEXT, *(["batch_size_per_gpu"] if apart else [])]
    several = cells.global_batch_size.nunique() > 1
    compared = dict(iter(comparison.groupby(keys, sort=False)))
    left_out = comparison.groupby([*keys, "norm"]).ngroups
    found: list[Verdict] = []
    room = MAX_SENTENCES
    for key, place in cells.groupby(keys, sort=False):
        if room <= 0:
            break
        if key in compared:
            rows = compared[key]
            norms = _most_important_first(rows)[: min(room, MAX_IN_ONE_PLACE)]
            accuracy = accuracy_name(frames.counted[frames.counted.arch.isin(place.arch)])
            sentences = [_sentence(rows[rows.norm == norm], baseline, accuracy) for norm in norms]
            left_out -= len(norms)
        else:
            sentences = [f"Only {baseline} was run, so there is nothing to compare it with."]
        room -= len(sentences)
        found.append(Verdict(_where(place, several, apart), sentences, _not_completed(place)))
    if left_out:
        where = f"in the table “Accuracy against {baseline}” and in standing.csv"
        verb = "is" if left_out == 1 else "are"
        found.append(Verdict("Not shown here", [f"{plural(left_out, 'more comparison')} {verb} {where}."]))
    return found


def _begun(rows: pd.DataFrame, side: str = "") -> pd.DataFrame:
    """Without the cells that no run has begun: that they were planned at all is read from the others."""
    is_begun = rows.not_started < rows.planned
    if side:
        theirs = rows[f"not_started{side}"]
        is_begun &= theirs.isna() | (theirs < rows[f"planned{side}"])
    return rows[is_begun]


def _where(place: pd.DataFrame, several_global: bool, apart: bool) -> str:
    first = place.iloc[0]
    parts = [f"{first.arch} on {first.data}", first.settings]
    parts.append(f"global batch {first.global_batch_size}" if several_global else "")
    parts.append(f"batch per GPU {first.batch_size_per_gpu}" if apart else "")
    return ", ".join(filter(None, parts))


def _most_important_first(rows: pd.DataFrame) -> list[str]:
    """The norms of these rows: by their best outcome, then by the largest difference that is called so."""
    outcome, distance = rows.top1_verdict.map(_OUTCOMES.index), -rows.top1_mean.abs().fillna(0.0)
    ranked = rows[["norm"]].assign(outcome=outcome, distance=distance)
    return ranked.sort_values(["outcome", "distance"], kind="stable").norm.drop_duplicates().tolist()


def _sentence(rows: pd.DataFrame, baseline: str, accuracy: str) -> str:
    """Of one norm: its accuracy, and its shift if it has any."""
    heads = {
        "better": f"beats {baseline} by",
        "worse": f"loses to {baseline} by",
        "inconclusive": f"is not shown to differ from {baseline}:",
        "too few seeds": f"differs from {baseline} by",
        "no pairs": f"has no completed seed in common with {baseline}",
    }
    text = f"{rows.norm.iloc[0]} {_clauses(rows, 'top1', heads, f' points of {accuracy}')}."
    if (rows.esm_n > 0).any():
        heads = {
            "better": "is lower:",
            "worse": "is higher:",
            "inconclusive": "is inconclusive:",
            "too few seeds": "is",
            "no pairs": "was not measured in a common seed",
        }
        shift = _clauses(rows, "esm", heads, f" × {baseline}'s")
        text += f" Its mean scaled ESM σ over the layers that both have {shift}."
    return text


def _clauses(rows: pd.DataFrame, metric: str, heads: dict[str, str], unit: str) -> str:
    """A clause for each outcome, such as `beats BN by 1.10 ± 0.30 points of top-1 at norm batch 4 (…)`."""
    clauses: list[str] = []
    for outcome in _OUTCOMES:
        chosen = rows[rows[f"{metric}_verdict"] == outcome]
        if chosen.empty:
            continue
        at = "" if clauses else "norm batch "
        if outcome == "no pairs":
            clauses.append(f"{heads[outcome]}{_at(chosen, at)}")
        elif outcome == "inconclusive" and clauses:
            clauses.append(f"inconclusive{_at(chosen, at)}")
        else:
            clauses.append(f"{heads[outcome]} {_amounts(chosen, metric, outcome, unit, at)}")
    return "; ".join(clauses)


def _at(rows: pd.DataFrame, noun: str) -> str:
    """` at norm batch 2, 4 and 8`; nothing where neither side has a norm batch."""
    with_bn = rows.has_bn.astype(bool) | rows[f"has_bn{BASELINE}"].eq(True)
    sizes = [str(size) for size in rows.norm_batch_size[with_bn]]
    if not sizes:
        return ""
    return f" at {noun}{' and '.join(filter(None, [', '.join(sizes[:-1]), sizes[-1]]))}"


def _amounts(rows: pd.DataFrame, metric: str, outcome: str, unit: str, noun: str) -> str:
    if len(rows) > _MAX_AMOUNTS:
        means = rows[f"{metric}_mean"].abs() if outcome in ("better", "worse") else rows[f"{metric}_mean"]
        is_ordered = means.is_monotonic_increasing or means.is_monotonic_decreasing
        ends = means.iloc[[0, -1]] if is_ordered else (means.min(), means.max())
        first, last = (short(end) if metric == "esm" else number(end, 2) for end in ends)
        span = f"{first} to {last}{unit}" if is_ordered else f"{first} to {last}{unit}, lowest to highest,"
        return f"{span}{_at(rows, noun)} ({_evidence(rows, metric)})"
    parts: list[str] = []
    for row in (rows.iloc[[place]] for place in range(len(rows))):
        amount = _amount(row.iloc[0], metric, outcome) + ("" if parts else unit)
        parts.append(f"{amount}{_at(row, '' if parts else noun)} ({_evidence(row, metric)})")
    return ", ".join(parts)


def _amount(row: pd.Series, metric: str, outcome: str) -> str:
    estimate = estimate_of(row, metric)
    assert estimate is not None
    if metric == "esm":
        return " and ".join(map(short, estimate.both or [estimate.mean]))
    if outcome == "worse":
        estimate = estimate.negated
    is_open = outcome in ("inconclusive", "too few seeds")
    return str(estimate_cell(estimate, 0, 2, say_one=False, signed=is_open))


def _evidence(rows: pd.DataFrame, metric: str) -> str:
    """`95 % interval 0.310 to 0.390, 5 paired seeds, p = 0.01`."""
    parts = []
    one = estimate_of(rows.iloc[0], metric)
    if metric == "esm" and len(rows) == 1 and one and one.interval:
        parts.append(f"95\u00a0% interval {' to '.join(map(short, one.interval))}")
    fewest, most = int(rows[f"{metric}_n"].min()), int(rows[f"{metric}_n"].max())
    parts.append(f"{fewest} to {most} paired seeds" if fewest < most else plural(most, "paired seed"))
    adjusted = rows[f"{metric}_p_holm"]
    # Of several, the one that comes nearest to saying otherwise.
    is_claim = rows[f"{metric}_verdict"].isin(["better", "worse"]).all()
    p = str(p_cell(adjusted.max() if is_claim else adjusted.min()))
    if p != EMPTY:
        sign = "=" if len(rows) == 1 else "≤" if is_claim else "≥"
        parts.append(f"p {p}" if p.startswith("<") else f"p {sign} {p}")
    return ", ".join(parts)


def _not_completed(place: pd.DataFrame) -> list[str]:
    """Name the runs that are in no comparison, since they may be the worst."""
    table = place[place[UNFINISHED].sum(axis=1) > 0].sort_values(UNFINISHED, ascending=False, kind="stable")
    if table.empty:
        return []
    texts = []
    for _, row in table.head(_MAX_LEFT_OUT).iterrows():
        states = [f"{row[state]} {state.replace('_', ' ')}" for state in UNFINISHED if row[state]]
        at = f" at norm batch {row.norm_batch_size}" if row.has_bn else ""
        texts.append(f"{row.norm}{at}: {', '.join(states)}")
    more = len(table) - len(texts)
    texts += [f"and {plural(more, 'more cell')}"] if more else []
    return [f"Left out, since they did not complete, and may be the worst: {'; '.join(texts)}."]
