"""The record of a run: plain files, which can be merged by copying.

One process at a time writes (`RecordWriter` holds a lock); small files are replaced atomically,
measurements are appended one whole line at a time. Readers skip a line that was cut short, and show a
run that says `running` while no process holds its lock as failed.
"""

from suite.files import is_locked, parse_lines, read_whole, write_atomically
from suite.record.costs import Costs
from suite.record.noise import NoiseRecord, read_noise, write_noise
from suite.record.rank_errors import RankError, errors_noted
from suite.record.reader import MEASUREMENT_KEYS, SCHEMA_VERSION, Layer, Measurement, Record
from suite.record.request import StopRequest, ask_to_stop, forget_request, read_request
from suite.record.status import SETTLED, STATES, UNFINISHED, State, Status, read_status
from suite.record.writer import RecordWriter

__all__ = [
    "MEASUREMENT_KEYS",
    "SCHEMA_VERSION",
    "SETTLED",
    "STATES",
    "UNFINISHED",
    "Costs",
    "Layer",
    "Measurement",
    "NoiseRecord",
    "RankError",
    "Record",
    "RecordWriter",
    "State",
    "Status",
    "StopRequest",
    "ask_to_stop",
    "errors_noted",
    "forget_request",
    "is_locked",
    "parse_lines",
    "read_noise",
    "read_request",
    "read_status",
    "read_whole",
    "write_atomically",
    "write_noise",
]
