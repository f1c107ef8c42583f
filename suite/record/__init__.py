"""The record of a run: plain files, which can be merged by copying.

One process at a time writes (`RecordWriter` holds a lock); small files are replaced atomically,
measurements are appended one whole line at a time. Readers skip a line that was cut short, and show a
run that says `running` while no process holds its lock as failed.
"""

from suite.record.costs import Costs
from suite.record.noise import Noise, NoiseRecord, Scope, read_noise, write_noise
from suite.record.rank_errors import RankError, errors_noted
from suite.record.rank_times import RankTimes, read_rank_times
from suite.record.reader import MEASUREMENT_KEYS, SCHEMA_VERSION, Layer, Measurement, Record
from suite.record.robustness import (
    PartsRecord,
    RobustnessRecord,
    ShiftRecord,
    TestTimeRecord,
    read_robustness,
    write_robustness,
)
from suite.record.status import PHASES, SETTLED, STATES, UNFINISHED, State, Status, read_status, time_left_s
from suite.record.stop_request import StopRequest, clear_stop_request, read_stop_request, request_stop
from suite.record.writer import RecordWriter

__all__ = [
    "MEASUREMENT_KEYS",
    "PHASES",
    "SCHEMA_VERSION",
    "SETTLED",
    "STATES",
    "UNFINISHED",
    "Costs",
    "Layer",
    "Measurement",
    "Noise",
    "NoiseRecord",
    "PartsRecord",
    "RankError",
    "RankTimes",
    "Record",
    "RecordWriter",
    "RobustnessRecord",
    "Scope",
    "ShiftRecord",
    "State",
    "Status",
    "StopRequest",
    "TestTimeRecord",
    "clear_stop_request",
    "errors_noted",
    "read_noise",
    "read_rank_times",
    "read_robustness",
    "read_status",
    "read_stop_request",
    "request_stop",
    "time_left_s",
    "write_noise",
    "write_robustness",
]
