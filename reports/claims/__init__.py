"""The paper's claims, judged by rules that were written down first: see each module's docstring."""

from reports.claims.claim_charts import claim_figures
from reports.claims.registration import load_registration, register
from reports.claims.result import ClaimResult, Evidence, claim_table, gather, judge, verdict_table

__all__ = [
    "ClaimResult",
    "Evidence",
    "claim_figures",
    "claim_table",
    "gather",
    "judge",
    "load_registration",
    "register",
    "verdict_table",
]
