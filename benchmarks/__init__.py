"""Benchmarks of the suite's own speed, as paired, interleaved ratios with intervals. Not in the wheel."""
