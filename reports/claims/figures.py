"""The paper's figures drawn anew: our lines, and its points where it has some."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.claims.claim_charts import CLAIM_CHARTS
from reports.claims.evidence import Evidence
from reports.figures import Figure

SECTION = "claims"


@dataclass(frozen=True)
class ClaimFigure(Figure):
    """A figure whose lines are not the report's norms: it stays whatever a reader filters."""

    norms: Sequence[str] = ()

    @property
    def holds(self) -> dict[str, list[str]]:
        return {"norm": list(self.norms), "norm_batch_size": self.batches}


def claim_figures(evidence: Sequence[Evidence], runs: pd.DataFrame) -> list[Figure]:
    """In the claims' order. `runs`: those of the whole report, whose axes the page filters by."""
    norms = [str(norm) for norm in runs.norm.unique()]
    batches = [str(size) for size in sorted(runs.norm_batch_size.unique())]
    found: list[Figure] = []
    for one in evidence:
        if one.frames is None or one.frames.completed.empty:
            continue
        for chart in CLAIM_CHARTS[one.letter](one.frames):
            slug = f"claim-{one.letter.lower()}-{chart.slug}"
            title = f"{one.letter}: {chart.title}"
            found.append(
                ClaimFigure(slug, SECTION, title, chart.caption, chart.panels, [], [], {}, batches, norms)
            )
    return found
