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
    measured = {one.key: one for one in known.shifts}
    shifts = []
    for shift in planned_shifts(plan):
        found = measured.get((shift.name, shift.kind, shift.severity, shift.source, plan.max_images))
        if found is None or (plan.with_parts and has_bn and found.parts is None):
            shifts.append(shift)
    streams_measured = {one.key for one in known.test_time}
    streams = [
        (stream, method)
        for stream in (planned_streams(plan) if has_bn and plan.methods else ())
        for method in plan.methods
        if (stream.key(plan.max_images), method) not in streams_measured
    ]
    return Missing(shifts, streams)
