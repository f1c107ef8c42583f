"""A verdict with its evidence."""

from dataclasses import dataclass

from reports.claims.catalogue import CLAIMS, Claim
from reports.claims.check import Check, CheckOutcome, evaluate, together
from reports.claims.evidence import Evidence


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
