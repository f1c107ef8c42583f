"""Robustness to distribution shift: what a shift costs a network, and what helps at test time.

    measure      accuracy, confidence and estimation shift under a shift
    test_time    statistics that are chosen at test time
    surveys      both, for all shifts of a plan

Shifts and corruptions are in `suite.data`. Formulas and sources: docs/science.md.
"""

from suite.shift.robustness.measure import Interleaved, ShiftResult, measure_shift, top1_at_test_time
from suite.shift.robustness.surveys import Images, survey
from suite.shift.robustness.test_time import adapting

__all__ = [
    "Images",
    "Interleaved",
    "ShiftResult",
    "adapting",
    "measure_shift",
    "survey",
    "top1_at_test_time",
]
