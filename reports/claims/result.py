"""The claims by their letters, the runs that each rests on, their verdicts, and the table of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.claims import depth, inference, noise_loss, positions, small_batches
from reports.claims.check import Check, CheckOutcome, PaperNumber, Rule, evaluate, together
from reports.collect import collect
from reports.frames import Frames, build_frames
from reports.numbers import EMPTY, listed, number, plural
from reports.paper.published import LABELS, load_paper
from reports.stats import CONFIDENCE, MIN_SEEDS_FOR_A_CLAIM
from reports.tables.table import Cell, Column, Table
from suite.errors import UserError


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    `rules`: in blocks, see `check.evaluate`. `remark`: what one must know of the rules before believing the
    verdict.
    """

    letter: str
    says: str
    rules: Sequence[Sequence[Rule]]
    remark: str = ""


CLAIMS = {
    claim.letter: claim
    for claim in (
        Claim("A", "BN's estimates are wrong on the very images that it trains on", inference.RULES),
        Claim(
            "B",
            "the shift accumulates over depth, the more the smaller the training set",
            depth.ACCUMULATION,
        ),
        Claim(
            "C",
            "GN in every second layer blocks the accumulation",
            depth.BLOCKING,
            "At the end of training, from above: a shift that falls with depth does not accumulate either.",
        ),
        Claim(
            "D",
            "XBN is more robust to noise on the estimates than BN, and more so with IN than with GN",
            noise_loss.RULES,
            "The paper gives no formula for its noise: ours is a reading of it.",
        ),
        Claim(
            "E",
            "with few samples behind a statistic, XBN beats BN and shifts less",
            small_batches.RULES,
            "GN has no statistic over a batch: it does not depend on the norm batch by construction.",
        ),
        Claim(
            "F",
            "P2 is the best position of GN, and GN the best batch-free norm at its worst position",
            positions.RULES,
            "The paper gives no numbers by position: only the order is judged.",
        ),
    )
}


@dataclass(frozen=True)
class Evidence:
    """A claim's own runs alone, so that the common layers do not depend on other claims.

    `frames` is None when not one run can be read. `trouble`: a sentence on the runs that did not complete.
    """

    letter: str
    frames: Frames | None
    num_planned: int
    trouble: str = ""

    @property
    def num_completed(self) -> int:
        return 0 if self.frames is None else len(self.frames.completed)

    @property
    def data(self) -> str:
        """The data sets of the runs."""
        return "" if self.frames is None else ", ".join(self.frames.runs.data.unique())


def gather(letter: str, folders: Sequence[Path]) -> Evidence:
    """Read the planned runs of a claim. A folder that is not there, or holds no run, has not begun."""
    begun = [folder for folder in folders if (folder / "run.json").exists()]
    if not begun:
        return Evidence(letter, None, len(folders), "no run has begun")
    try:
        frames = build_frames(collect(begun))
    except UserError as error:
        return Evidence(letter, None, len(folders), str(error))
    return Evidence(letter, frames, len(folders), _trouble(frames, len(folders)))


def _trouble(frames: Frames, num_planned: int) -> str:
    missing = num_planned - len(frames.completed)
    if not missing:
        return ""
    left = frames.runs[frames.runs.state != "completed"]
    counts = [f"{count} {str(state).replace('_', ' ')}" for state, count in left.state.value_counts().items()]
    if unread := len(frames.collection.skipped):
        counts.append(f"{unread} unreadable")
    if absent := num_planned - len(frames.runs) - unread:
        counts.append(f"{absent} not begun")
    reasons = [reason for reason in dict.fromkeys(left.reason) if reason]
    texts = f" ({reasons[0]})" if reasons else ""
    return f"of {plural(num_planned, 'run')} {missing} did not complete: {listed(counts)}{texts}"


@dataclass(frozen=True)
class ClaimResult:
    """`runs`: completed of planned. `evidence`: one sentence on what decided the verdict."""

    claim: Claim
    data: str
    runs: str
    checks: list[Check]
    verdict: CheckOutcome
    evidence: str


def judge(evidence: Evidence) -> ClaimResult:
    """Apply the claim's rule to its runs; one that did not complete makes it inconclusive."""
    claim = CLAIMS[evidence.letter]
    checks = [] if evidence.frames is None else evaluate(claim.rules, evidence.frames)
    verdict = "inconclusive" if evidence.trouble else together(checks)
    runs = f"{evidence.num_completed} of {evidence.num_planned}"
    texts = evidence.trouble or _deciding(checks, verdict)
    remark = f" {claim.remark}" if claim.remark else ""
    text = f"{claim.letter}: {verdict}, {evidence.data or 'no data'}. {texts[:1].upper()}{texts[1:]}.{remark}"
    return ClaimResult(claim, evidence.data, runs, checks, verdict, text)


def _deciding(checks: list[Check], verdict: CheckOutcome) -> str:
    """The checks that made the verdict what it is."""
    if not checks:
        return "the runs have nothing that the rule could be applied to"
    return "; ".join(check.sentence for check in checks if check.outcome == verdict)


_COLUMNS = [
    Column("Claim", "text"),
    Column("Measured", "sentence"),
    Column("Ours", "text"),
    Column("Rule", "text"),
    Column("The paper's", "text"),
    Column("Tolerance", "text"),
    Column("Verdict", "text"),
]


def claim_table(results: Sequence[ClaimResult]) -> Table:
    """A block for each claim. Its evidence is in the notes."""
    rows: list[list[Cell]] = []
    breaks = []
    for result in results:
        if rows:
            breaks.append(len(rows))
        where = f"{result.claim.says} ({result.data or 'no data'}; {result.runs} runs)"
        rows.append([result.claim.letter, where[:1].upper() + where[1:], "", "", "", "", result.verdict])
        rows += [_row(result.claim.letter, check) for check in result.checks]
    labels = sorted({c.paper.label for result in results for c in result.checks if c.paper is not None})
    notes = [
        *(result.evidence for result in results),
        f"Ours: mean over seeds, ± half of its {100 * CONFIDENCE:g} % interval. A check holds when the "
        "interval lies wholly on the claimed side, and fails when wholly on the other; it is inconclusive "
        f"otherwise, and below {MIN_SEEDS_FOR_A_CLAIM} seeds. Values that all seeds share decide from six "
        "seeds on (sign test). A claim holds when all of its checks do, fails "
        "when one does, and is inconclusive when a run did not complete.",
        f"The paper: {load_paper().title}, {load_paper().address}. "
        + " ".join(f"{label}: {LABELS[label]}." for label in labels)
        + " Tolerance: of the reading, at worst. The paper does not describe its set-up in full, so "
        "its numbers are shown beside ours and decide nothing.",
    ]
    return Table("The paper's claims", _COLUMNS, rows, notes=notes, breaks=frozenset(breaks))


def _row(letter: str, check: Check) -> list[Cell]:
    measured = check.measured[:1].upper() + check.measured[1:]
    return [letter, measured, check.ours, check.rule, *_paper(check.paper, check.decimals), check.outcome]


def _paper(paper: PaperNumber | None, decimals: int) -> tuple[str, str]:
    """`90.0 at epoch 11 (figure)` and `± 0.5`."""
    if paper is None:
        return EMPTY, EMPTY
    of = f", {paper.of}" if paper.of else ""
    return f"{number(paper.value, decimals)}{of} ({paper.label})", f"± {number(paper.tolerance, decimals)}"
