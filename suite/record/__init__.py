"""Record: what a run leaves behind, as plain files that merge by copying.

Writing is for one process at a time (`RecordWriter` holds a lock); small files are replaced
atomically, measurements are appended a whole line at a time. Reading trusts nothing: a line cut
short is left out, and a run that says `running` while nobody holds its lock is shown as failed.
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
