"""The paper's claims, judged by rules that were written down first: see each module's docstring."""

from reports.claims.catalogue import CLAIMS, Claim
from reports.claims.claim_table import claim_table
from reports.claims.evidence import Evidence, gather
from reports.claims.figures import claim_figures
from reports.claims.result import ClaimResult, judge

__all__ = ["CLAIMS", "Claim", "ClaimResult", "Evidence", "claim_figures", "claim_table", "gather", "judge"]
