"""The measurement of the estimation shift."""

from suite.shift.precise import precise_statistics, with_statistics
from suite.shift.probe import LayerShift, ShiftProfile, probe

__all__ = ["LayerShift", "ShiftProfile", "precise_statistics", "probe", "with_statistics"]
