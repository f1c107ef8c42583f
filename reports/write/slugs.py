"""Names as file names: whatever they hold, safe, short, and no two alike."""

import re
from collections.abc import Iterable

MAX_LENGTH = 80


def slug(text: str) -> str:
    """Lower-case ASCII letters and digits, with hyphens between; may be empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def distinct(names: Iterable[str]) -> list[str]:
    """The names, cut to MAX_LENGTH, with a number behind those that came before."""
    found: dict[str, None] = {}
    for name in names:
        short = name[:MAX_LENGTH].rstrip("-") or "unnamed"
        tries, candidate = 1, short
        while candidate in found:
            tries += 1
            candidate = f"{short}-{tries}"
        found[candidate] = None
    return list(found)
