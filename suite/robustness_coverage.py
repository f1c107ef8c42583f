"""What a record of robustness lacks of a plan. No torch."""

from dataclasses import dataclass

from suite.data.shifts import Shift, Stream, planned_shifts, planned_streams
from suite.record import RobustnessRecord
from suite.specs.robustness import RobustnessPlan


@dataclass(frozen=True)
class Missing:
    """The shifts, and the methods on streams, that are not measured."""

    shifts: list[Shift]
    streams: list[tuple[Stream, str]]

    def __bool__(self) -> bool:
        return bool(self.shifts or self.streams)


def missing_of(known: RobustnessRecord, plan: RobustnessPlan, *, has_bn: bool) -> Missing:
    """Return what of a plan was not measured. Methods of test time are for networks with BN.

    Raises UserError for a folder of the plan that holds no shift.
    """
    shifts = [
        shift
        for shift in planned_shifts(plan)
        if (found := known.shift(shift.name, shift.severity)) is None
        or (plan.with_parts and found.layers and found.parts is None)
    ]
    measured = {one.key for one in known.test_time}
    streams = [
        (stream, method)
        for stream in (planned_streams(plan) if has_bn and plan.methods else ())
        for method in plan.methods
        if (stream.name, stream.severity, method, stream.order, stream.images_per_batch) not in measured
    ]
    return Missing(shifts, streams)
