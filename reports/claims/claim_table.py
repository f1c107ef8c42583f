"""The claims as a table: a headline for each, and its checks below."""

from collections.abc import Sequence

from reports.claims.check import Check, PaperNumber
from reports.claims.result import ClaimResult
from reports.numbers import EMPTY, number
from reports.paper.published import LABELS, load_paper
from reports.stats import CONFIDENCE, MIN_SEEDS_FOR_A_CLAIM
from reports.tables.table import Cell, Column, Table

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
