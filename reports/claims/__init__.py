"""The paper's claims, judged by rules that were written down first: see each module's docstring."""

from reports.claims.claim_charts import claim_figures
from reports.claims.result import CLAIMS, Claim, ClaimResult, Evidence, claim_table, gather, judge

__all__ = ["CLAIMS", "Claim", "ClaimResult", "Evidence", "claim_figures", "claim_table", "gather", "judge"]
