"""The measurements of many runs at once, by pyarrow's JSON reader; line by line where a file is not plain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from suite.files import parse_lines
from suite.record import MEASUREMENT_KEYS
from suite.record.shapes import is_measurement

NAME = pa.dictionary(pa.int32(), pa.string())
CURVES = pa.schema(
    [("run", pa.int32()), ("metric", NAME), ("split", NAME), ("epoch", pa.int32()), ("value", pa.float64())]
)
PROBES = pa.schema(
    [("run", pa.int32()), ("metric", NAME), ("epoch", pa.int32()), ("values", pa.list_(pa.float64()))]
)
_FIELDS = pa.schema(
    [
        *(("metric", pa.string()), ("value", pa.float64()), ("values", pa.list_(pa.float64()))),
        *(("epoch", pa.int32()), ("step", pa.int64()), ("split", pa.string())),
    ]
)
_LINE = pyarrow.json.ParseOptions(explicit_schema=_FIELDS, unexpected_field_behavior="ignore")
# NaN and infinity, which JSON lacks, are written as text.
_NOT_PLAIN = (b'nan"', b'inf"')


@dataclass(frozen=True)
class Text:
    """A run's measurements.jsonl. `width`: how many layers a per-layer measurement has."""

    run: int
    data: bytes
    width: int


@dataclass(frozen=True)
class Chunk:
    """What some texts hold: scalars and probes in the order written. `notes`: what is wrong with a run's."""

    curves: pa.Table
    probes: pa.Table
    notes: dict[int, str]


def read_texts(texts: Sequence[Text]) -> Chunk:
    """Everything that can be read of these. Both ways of reading give the same."""
    together = _read_together(texts)
    if together is not None:
        return together
    # Usually few texts are affected, by an unfinished line or a number that JSON lacks.
    plain = [text for text in texts if _is_plain(text.data)]
    together = _read_together(plain) if len(plain) < len(texts) else None
    read = {text.run for text in plain} if together is not None else set()
    chunks = [*([together] if together else []), *(_read_by_lines(t) for t in texts if t.run not in read)]
    return Chunk(
        pa.concat_tables([one.curves for one in chunks] or [CURVES.empty_table()]),
        pa.concat_tables([one.probes for one in chunks] or [PROBES.empty_table()]),
        {run: note for one in chunks for run, note in one.notes.items()},
    )


def _is_plain(data: bytes) -> bool:
    return data.endswith(b"\n") and not any(sign in data for sign in _NOT_PLAIN)


def _read_together(texts: Sequence[Text]) -> Chunk | None:
    """All as one document; None when a line is anything but a whole measurement."""
    if not all(text.data.endswith(b"\n") for text in texts):
        return None
    # pyarrow holds no column of two kinds: per-layer values get one of their own.
    data = b"".join(text.data for text in texts).replace(b'"value": [', b'"values": [')
    try:
        table = pyarrow.json.read_json(pa.BufferReader(data), parse_options=_LINE)
    except pa.ArrowInvalid:
        return None
    counts = np.array([text.data.count(b"\n") for text in texts])
    missing = sum(table[name].null_count for name in ("metric", "epoch", "step"))
    if table.num_rows != counts.sum() or missing:
        return None
    runs = pa.array(np.repeat(np.array([text.run for text in texts], dtype=np.int32), counts))
    widths = np.repeat(np.array([text.width for text in texts]), counts)
    is_probe = table["values"].is_valid()
    if not pc.all(pc.xor(is_probe, table["value"].is_valid())).as_py():
        return None
    lengths = pc.fill_null(pc.list_value_length(table["values"]), -1).to_numpy()
    if (lengths != np.where(is_probe.to_numpy(), widths, -1)).any():
        return None
    table = table.append_column("run", runs)
    curves = table.filter(pc.invert(is_probe)).select(CURVES.names)
    probes = table.filter(is_probe).select(PROBES.names)
    return Chunk(_named(curves, CURVES), _named(probes, PROBES), {})


def _named(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """With names as numbers."""
    columns = [
        column.dictionary_encode() if schema.field(name).type == NAME else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _read_by_lines(text: Text) -> Chunk:
    """What came before the first line that is JSON but no measurement. Damaged lines are left out."""
    lines, damaged = parse_lines(text.data, MEASUREMENT_KEYS)
    curves: list[dict[str, Any]] = []
    probes: list[dict[str, Any]] = []
    notes = []
    try:
        for line in lines:
            value, metric, split, epoch = line["value"], line["metric"], line.get("split"), line["epoch"]
            if not is_measurement(line):
                raise TypeError(f"no measurement: {line}")
            where = {"run": text.run, "metric": metric, "epoch": epoch}
            if isinstance(value, list):
                probes.append(where | {"values": [float(v) for v in value[: text.width]]})
            else:
                curves.append(where | {"split": split, "value": float(value)})
    except (TypeError, ValueError, OverflowError):
        count = len(curves) + sum(len(probe["values"]) for probe in probes)
        notes.append(f"measurements.jsonl: only the first {count} values can be read")
    if damaged:
        notes.append(f"{damaged} damaged lines left out")
    tables = pa.Table.from_pylist(curves, CURVES), pa.Table.from_pylist(probes, PROBES)
    return Chunk(*tables, {text.run: "; ".join(notes)} if notes else {})
