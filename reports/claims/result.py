"""The runs that each claim rests on, its verdict, and the table of verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.claims.check import P_PER_LOOK, Check, PaperNumber, Verdict, evaluate, together
from reports.claims.registration import Registered, check_registered, load_registration
from reports.collect import collect
from reports.frames import Frames, build_frames
from reports.numbers import EMPTY, count_cell, listed, number, plural
from reports.paper.published import LABELS, load_paper
from reports.stats import CONFIDENCE, MIN_SEEDS_FOR_A_CLAIM
from reports.tables.table import Cell, Column, Table
from suite.errors import UserError


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
    """Read the planned runs of a claim. A folder that is not there, or holds no run, has not begun.

    Raises UserError when the runs were made under other rules than those that are registered now.
    """
    for output_dir in sorted({folder.parent for folder in folders}):
        check_registered(output_dir)
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
    """What came of a claim under the rules of the file with this `sha256`.

    `runs`: completed of planned. `checks` decide the verdict, and `shown` decide nothing. `evidence`: one
    sentence on what decided it. `is_complete`: whether all runs completed and gave all values, so that
    further seeds can bring a verdict.
    """

    letter: str
    says: str
    sha256: str
    data: str
    seeds: int
    runs: str
    checks: list[Check]
    shown: list[Check]
    verdict: Verdict
    evidence: str
    is_complete: bool

    @property
    def headline(self) -> str:
        """`A holds (6 seeds)`; an open claim is inconclusive."""
        verb = "is " if self.verdict in ("absent", "inconclusive") else ""
        return f"{self.letter} {verb}{self.verdict} ({plural(self.seeds, 'seed')})"


def judge(evidence: Evidence, registered: Registered | None = None) -> ClaimResult:
    """Apply the claim's rules to its runs; one that did not complete makes it inconclusive.

    `registered`: the claims; by default those of configs/claims.yaml.
    """
    registered = registered or load_registration()
    claim = registered.content.claims[evidence.letter]
    checks: list[Check] = []
    shown: list[Check] = []
    seeds = 0
    if evidence.frames is not None:
        applied = evaluate(registered.content.rules(evidence.letter), evidence.frames)
        checks, shown = applied.checks, applied.shown
        seeds = int(evidence.frames.completed.seed.nunique())
    verdict = "inconclusive" if evidence.trouble else together(checks)
    runs = f"{evidence.num_completed} of {evidence.num_planned}"
    texts = evidence.trouble or _deciding(checks, verdict)
    remark = f" {claim.remark}" if claim.remark else ""
    where = f"{evidence.data or 'no data'}, {plural(seeds, 'seed')}"
    text = f"{evidence.letter}: {verdict}, {where}. {texts[:1].upper()}{texts[1:]}.{remark}"
    head = (evidence.letter, claim.says, registered.sha256, evidence.data, seeds, runs)
    is_complete = not evidence.trouble and not any(check.num_lacking for check in checks)
    return ClaimResult(*head, checks, shown, verdict, text, is_complete)


def _deciding(checks: list[Check], verdict: Verdict) -> str:
    """The checks that made the verdict what it is."""
    if not checks:
        return "the runs have nothing that the rules could be applied to"
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
        where = f"{result.says} ({result.data or 'no data'}; {result.runs} runs)"
        rows.append([result.letter, where[:1].upper() + where[1:], "", "", "", "", result.verdict])
        rows += [_row(result.letter, check, check.outcome, check.rule) for check in result.checks]
        rows += [_row(result.letter, check, "shown", EMPTY) for check in result.shown]
    checks = [check for result in results for check in (*result.checks, *result.shown)]
    labels = sorted({check.paper.label for check in checks if check.paper is not None})
    notes = [
        *(result.evidence for result in results),
        f"Ours: mean over seeds, ± half of its {100 * CONFIDENCE:g} % interval. Seeds are added until a "
        "claim has a verdict, or its last look was taken. At each look a check holds when p is below "
        f"{P_PER_LOOK:g} on the claimed side, and fails when p on the other side is below that divided by "
        f"the claim's number of checks. It is absent when the {100 * CONFIDENCE:g} % interval lies within "
        f"the margin. It is inconclusive otherwise, and below {MIN_SEEDS_FOR_A_CLAIM} seeds. What is shown "
        "decides nothing. A claim holds when all of its checks do, fails when one does, is absent when all "
        "hold or are absent, and is inconclusive when a run did not complete.",
        *(
            f"The rules, seeds and margins are those of configs/claims.yaml with SHA-256 {sha256}."
            for sha256 in dict.fromkeys(result.sha256 for result in results)
        ),
        f"The paper: {load_paper().title}, {load_paper().address}. "
        + " ".join(f"{label}: {LABELS[label]}." for label in labels)
        + " Tolerance: of the reading, at worst. The paper does not describe its set-up in full, so "
        "its numbers are shown beside ours and decide nothing.",
    ]
    return Table("The paper's claims", _COLUMNS, rows, notes=notes, breaks=frozenset(breaks))


def verdict_table(results: Sequence[ClaimResult]) -> Table:
    """A row for each claim, for a terminal of 80 columns."""
    columns = [
        Column("Claim", "text"),
        Column("Says", "sentence"),
        Column("Data", "text"),
        Column("Seeds", "number"),
        Column("Verdict", "text"),
    ]
    rows: list[list[Cell]] = [
        [one.letter, one.says, one.data or EMPTY, count_cell(one.seeds), one.verdict] for one in results
    ]
    return Table("Verdicts", columns, rows, notes=[])


def _row(letter: str, check: Check, outcome: str, rule: str) -> list[Cell]:
    measured = check.measured[:1].upper() + check.measured[1:]
    return [letter, measured, check.ours, rule, *_paper(check.paper, check.decimals), outcome]


def _paper(paper: PaperNumber | None, decimals: int) -> tuple[str, str]:
    """`90.0 at epoch 11 (figure)` and `± 0.5`."""
    if paper is None:
        return EMPTY, EMPTY
    of = f", {paper.of}" if paper.of else ""
    return f"{number(paper.value, decimals)}{of} ({paper.label})", f"± {number(paper.tolerance, decimals)}"
