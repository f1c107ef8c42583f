"""What a check found, and what mends it."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warning", "problem", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's. `mend` is empty where all is well."""

    check: str
    verdict: Severity
    found: str
    mend: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, mend: str) -> Finding:
    """Runs will be trained, but something is lost."""
    return Finding(check, "warning", found, mend)


def problem(check: str, found: str, mend: str) -> Finding:
    """Runs will not be trained, or not rightly."""
    return Finding(check, "problem", found, mend)


def unknown(check: str, found: str, mend: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, "unknown", found, mend)
