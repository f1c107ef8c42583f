"""How the report's statistics are made, in words."""

from reports.findings.baseline import Baseline
from reports.stats import BCA_FROM, CONFIDENCE, MIN_SEEDS_FOR_A_CLAIM, SIGNIFICANCE


def statistics_method(baseline: Baseline) -> str:
    """One paragraph, true of every table and sentence of the report."""
    parts = [
        f"Means over seeds carry a {100 * CONFIDENCE:g} % interval: Student's t below {BCA_FROM} seeds, "
        "where a bootstrap is too short, from there on the bias-corrected and accelerated bootstrap (BCa).",
        "Values that are not finite are left out and not counted.",
    ]
    if (name := baseline.label) is not None:
        parts += [
            f"Differences and ratios to {name} are paired by seed; a ratio is a geometric mean, its interval "
            "that of the mean logarithm.",
            "p is that of the paired t-test (a sign-flip test of n seeds cannot fall below 2/2ⁿ), adjusted "
            f"by Holm over all comparisons with {name} in one quantity: top-1, ESM σ, or slope.",
            f"Better and worse mean an adjusted p below {SIGNIFICANCE:g}; the intervals are not adjusted, so "
            "one may exclude zero where the word is inconclusive.",
            "Effect size is Hedges' g_av: the mean difference in units of the seeds' own standard deviation, "
            "corrected for their number.",
        ]
    parts += [
        "Along the norm batch, what beats BN is what stands so; the other answers rest each on its own "
        "interval.",
        f"Below {MIN_SEEDS_FOR_A_CLAIM} (paired) seeds nothing is called a difference.",
    ]
    return " ".join(parts)
