"""The answer of a report in one sentence, and a few that go with it: which norm, by how much, how surely."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports.accuracy import accuracy_name
from reports.aggregate import estimate_of
from reports.findings.baseline import Baseline
from reports.findings.ranking import LAYOUT, compared_at, rankings
from reports.frames import CONTEXT, Frames
from reports.numbers import EMPTY, bracket_cell, estimate_cell, listed, p_cell
from reports.sentences import sentence
from reports.stats import MIN_SEEDS_FOR_A_CLAIM, seeds_to_tell
from suite import shipped

_BN_AXIS = "norm_batch_size"


@dataclass(frozen=True)
class Answer:
    """`headline`, and sentences that complete it; `norm_batch`: where it holds, empty where there is none.

    `command`: what adds seeds, where the runs have too few to show a difference; else empty.
    """

    headline: str
    more: list[str]
    norm_batch: str = ""
    command: str = ""


@dataclass(frozen=True)
class Place:
    """One norm batch of one layout: the norms by rank, and those compared with the baseline, by rank too."""

    ranked: pd.DataFrame
    compared: pd.DataFrame

    @property
    def size(self) -> str:
        size = self.ranked[_BN_AXIS].iloc[0]
        return "" if pd.isna(size) else str(size)

    @property
    def best(self) -> list[str]:
        return self.ranked.norm[self.ranked.is_best].tolist()

    @property
    def open(self) -> list[str]:
        """The norms with too few seeds to say whether they are among the best."""
        return self.ranked.norm[self.ranked.is_open].tolist()

    def is_won_by(self, norm: str) -> bool:
        """Whether this norm alone is the best, and another one is shown to be worse."""
        return self.best == [norm] and len(self.open) < len(self.ranked) - 1

    def having(self, verdict: str) -> pd.DataFrame:
        return self.compared[self.compared.top1_verdict == verdict]

    @property
    def most_pairs(self) -> int:
        return int(self.compared.top1_n.max()) if len(self.compared) else 0


def answer(
    frames: Frames, ranked: pd.DataFrame, comparison: pd.DataFrame | None, baseline: Baseline
) -> Answer:
    """The answer to what `ranking` and `against_baseline` found.

    It is about the first place, in the order of models and norm batches, at which a norm beats the baseline;
    else about the first at which the baseline beats all others; else about the first.
    """
    left_out = list(_not_completed(frames))
    if ranked.empty:
        return Answer("No run has completed yet.", left_out)
    places = _places(ranked, comparison)
    if baseline.label is None or not any(len(place.compared) for place in places):
        note = baseline.note or sentence("only_baseline", baseline=baseline.label)
        return Answer(note, left_out, places[0].size)
    label = baseline.label
    place = min(places, key=lambda one: _openness(one, label))  # the first of the surest
    several = ranked[CONTEXT].drop_duplicates().shape[0] > 1
    here = place.ranked.iloc[0]
    accuracy = accuracy_name(frames.counted[frames.counted.arch == here.arch])
    where = ", ".join(
        [
            *([f"on {here.arch}, {here['data']}"] if several else []),
            *([f"at norm batch {place.size}"] if place.size else []),
        ]
    )
    row = _norm_of_the_headline(place, label)
    text = _headline(
        place, row, label, accuracy, len(comparison.dropna(subset="top1_p")) if comparison is not None else 0
    )
    headline = f"{where}, {text}" if where else text
    more = [*_shift(row, label), *_elsewhere(ranked, here, place), *left_out]
    command = _adds_seeds(frames, here) if place.most_pairs < MIN_SEEDS_FOR_A_CLAIM else ""
    return Answer(headline[0].upper() + headline[1:], more, place.size, command)


def _places(ranked: pd.DataFrame, comparison: pd.DataFrame | None) -> list[Place]:
    places = []
    for rows in rankings(ranked):
        compared, first = pd.DataFrame(), rows.iloc[0]
        if comparison is not None:
            compared = comparison[(comparison[LAYOUT] == first[LAYOUT]).all(axis=1)]
            if not pd.isna(first[_BN_AXIS]):
                sizes = (int(first[_BN_AXIS]), None)
                is_here = [compared_at(row)[1] in sizes for _, row in compared.iterrows()]
                compared = compared.loc[pd.Series(is_here, compared.index, dtype=bool)]
            order = dict(zip(rows.norm, rows["rank"], strict=True))
            compared = compared[compared.norm.isin(list(order))]
            compared = compared.iloc[compared.norm.map(order).argsort(kind="stable")]
        places.append(Place(rows, compared))
    return places


def _openness(place: Place, label: str) -> int:
    if place.most_pairs and len(place.having("better")):
        return 0
    return 1 if place.is_won_by(label) else 2


def _norm_of_the_headline(place: Place, label: str) -> pd.Series | None:
    """The norm that the headline compares with the baseline: the best that beats it, else the best.

    A norm with too few seeds is described only where all have too few.
    """
    enough = place.compared[place.compared.top1_n >= MIN_SEEDS_FOR_A_CLAIM] if len(place.compared) else None
    rows = (place.having("better"), enough, place.compared) if enough is not None else ()
    return next((some.iloc[0] for some in rows if len(some)), None)


def _headline(place: Place, row: pd.Series | None, label: str, accuracy: str, comparisons: int) -> str:
    estimate = None if row is None else estimate_of(row, "top1")
    if row is None or estimate is None:
        return sentence("no_pairs_yet", baseline=label)
    others = [norm for norm in place.best if norm != row.norm]
    undecided = [norm for norm in place.open if norm not in (row.norm, label)]
    facts = {"norm": row.norm, "baseline": label, "accuracy": accuracy}
    if not estimate.is_claim:
        amount = estimate_cell(estimate, 0, 2, say_one=False, signed=True)
        return sentence("too_few_seeds", **facts, amount=amount, seeds=estimate.n)
    p = str(p_cell(row.top1_p_holm))
    facts |= {"seeds": estimate.n, "p": "" if p == EMPTY else p if p.startswith("<") else f"= {p}"}
    facts |= {"undecided": undecided}
    if row.top1_verdict == "better":
        amount = estimate_cell(estimate, 0, 2, say_one=False)
        leads = row.norm in (*place.best, *place.open)
        return sentence("beats", **facts, amount=amount, others=others, leads=leads)
    if place.is_won_by(label):
        amount = estimate_cell(estimate.negated, 0, 2, say_one=False)
        return sentence("baseline_is_best", **facts, amount=amount)
    amount = estimate_cell(estimate, 0, 2, say_one=False, signed=True)
    # A third norm may still be open where these two differ already.
    needed = None if row.top1_verdict == "worse" else seeds_to_tell(estimate, comparisons)
    more = needed - estimate.n if needed else None
    return sentence("no_difference_shown", **facts, amount=amount, more=more)


def _shift(row: pd.Series | None, label: str) -> Iterator[str]:
    if row is not None and row.esm_n > 0:
        ratio, p = bracket_cell(estimate_of(row, "esm")), p_cell(row.esm_p_holm)
        yield sentence(
            "its_shift", norm=row.norm, baseline=label, ratio=ratio, p=str(p), verdict=row.esm_verdict
        )


def _elsewhere(ranked: pd.DataFrame, here: pd.Series, told: Place) -> Iterator[str]:
    """One sentence on the other norm batches of this layout: which norms are the best there.

    Those without enough seeds are left out where the headline says it of its own norm batch already.
    """
    sets: dict[tuple[tuple[str, ...], tuple[str, ...], int], list[str]] = {}
    for rows in rankings(ranked[(ranked[LAYOUT] == here[LAYOUT]).all(axis=1)]):
        place = Place(rows, pd.DataFrame())
        if place.size and place.size != told.size and (place.best or told.best):
            sets.setdefault((tuple(place.best), tuple(place.open), len(rows)), []).append(place.size)
    parts = [
        sentence("best_there", sizes=sizes, best=best, undecided=undecided, norms=norms)
        for (best, undecided, norms), sizes in sets.items()
    ]
    if parts:
        yield f"At other norm batches the best, as far as differences are significant: {'; '.join(parts)}."


def _not_completed(frames: Frames) -> Iterator[str]:
    states = frames.counted.state[frames.counted.state != "completed"].value_counts()
    if len(states):
        counts = [f"{count} {state}" for state, count in states.items()]
        yield sentence("left_out", runs=int(states.sum()), counts=listed(counts))


def _adds_seeds(frames: Frames, here: pd.Series) -> str:
    """The command that trains what this place lacks for a claim; empty for the runs of a study."""
    runs = frames.counted
    runs = runs[(runs[LAYOUT] == here[LAYOUT]).all(axis=1)]
    names = runs.experiment.unique()
    if len(names) != 1 or runs.is_of_study.any():
        return ""
    seeds = sorted({int(seed) for seed in runs.seed})
    seeds += [seeds[-1] + i for i in range(1, MIN_SEEDS_FOR_A_CLAIM + 1)]
    folder = str(Path(str(runs.folder.iloc[0])).parent)
    listing = ",".join(map(str, seeds))
    config = names[0] if names[0] in shipped.names() else f"{names[0]}.yaml"
    return shlex.join(["shiftbench", "run", config, f"seeds=[{listing}]", "--output-dir", folder])
