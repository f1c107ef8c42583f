"""Runs as columns: four Arrow tables, in which `run` is a row of the first."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from reports.collect.measurements import Chunk, Text, read_texts
from suite.metrics import METRICS

SCALAR_METRICS = [m.name for m in METRICS.values() if not m.per_layer]
BEST_TOP1 = "best_top1_percent"
# Of these the evaluation's values are results; the training's are for the curves.
_BOTH_SPLITS = [m.name for m in METRICS.values() if m.measured_in == "both"]


def results(curves: pa.Table, probes: pa.Table, num_runs: int) -> pd.DataFrame:
    """A row a run: the newest value of every scalar metric (NaN: none), BEST_TOP1, and its last `epoch`."""
    frame = curves.to_pandas()
    is_trained = (frame.split == "train").to_numpy()
    is_result = ~(is_trained & frame.metric.isin(_BOTH_SPLITS).to_numpy())
    newest = frame[is_result].drop_duplicates(["run", "metric"], keep="last")
    newest = newest.assign(metric=newest.metric.astype(str))
    found: pd.DataFrame = newest.pivot(index="run", columns="metric", values="value")
    found = found.reindex(index=range(num_runs), columns=SCALAR_METRICS)
    bad = frame[(frame.metric == "bad_images").to_numpy()].drop_duplicates(["run", "split"], keep="last")
    found["bad_images"] = bad.groupby("run").value.sum()
    is_top1 = ((frame.metric == "top1_percent") & (frame.split == "val")).to_numpy()
    finite = frame[is_top1 & np.isfinite(frame.value.to_numpy())]
    found[BEST_TOP1] = finite.groupby("run").value.max()
    epochs = pd.concat([frame[["run", "epoch"]], probes.select(["run", "epoch"]).to_pandas()])
    found["epoch"] = epochs.groupby("run").epoch.max()
    found["epoch"] = found.epoch.fillna(0).astype(int)
    return found


_TEXT = ["run_id", "experiment", "arch", "data", "norm", "norm_family", "position", "bfn", "deciding", "task"]
_TEXT += ["state", "reason", "job", "nodes", "folder", "notes", "layers", "device", "device_type", "loader"]
_WHOLE = ["num_groups", "global_batch_size", "batch_size_per_gpu", "norm_batch_size", "seed", "epochs"]
_WHOLE += ["attempts", "restarts", "lost_steps", "epoch", "world_size"]
_REAL = ["rank_s", "queue_wait_s", *SCALAR_METRICS, BEST_TOP1]
RUNS = pa.schema(
    [(name, pa.string()) for name in _TEXT]
    + [(name, pa.int64()) for name in _WHOLE]
    + [(name, pa.float64()) for name in _REAL]
    + [("stem", pa.bool_()), ("downsample", pa.bool_()), ("stages", pa.list_(pa.int64()))]
)
STARTS = pa.schema(
    [
        *(("run", pa.int32()), ("started_at", pa.float64()), ("git_sha", pa.string())),
        *(("git_dirty", pa.bool_()), ("device", pa.string()), ("device_type", pa.string())),
        *(("world_size", pa.int64()), ("loader", pa.string()), ("hosts", pa.string())),
        ("versions", pa.string()),
    ]
)
# So much text is parsed at once: enough to be quick, little enough to be forgotten soon.
_CHUNK_BYTES = 16_000_000
# Of so many blocks a table is made without copying; of more, reading it later would cost too much.
_MAX_BLOCKS = 200


@dataclass(frozen=True)
class Tables:
    """Any number of runs."""

    runs: pa.Table
    starts: pa.Table
    curves: pa.Table
    probes: pa.Table

    def parts(self) -> dict[str, pa.Table]:
        return {"runs": self.runs, "starts": self.starts, "curves": self.curves, "probes": self.probes}

    def keep(self, chosen: np.ndarray) -> "Tables":
        """The runs of these rows, in the order of `chosen`; within a run everything stays in its order."""
        if len(chosen) == self.runs.num_rows and (chosen == np.arange(len(chosen))).all():
            return self
        rest = (_of_runs(t, chosen, self.runs.num_rows) for t in (self.starts, self.curves, self.probes))
        return Tables(self.runs.take(pa.array(chosen)), *rest)


def _of_runs(table: pa.Table, chosen: np.ndarray, num_runs: int) -> pa.Table:
    """The rows of these runs, numbered anew. A table goes run by run, so that neighbours stay one block."""
    first = np.searchsorted(table["run"].to_numpy(), np.arange(num_runs + 1))
    counts = np.diff(first)[chosen]
    starts = np.flatnonzero(np.diff(chosen, prepend=-2) != 1)
    if len(starts) <= _MAX_BLOCKS:
        ends = [*(starts[1:] - 1), len(chosen) - 1]
        blocks = [(first[chosen[a]], first[chosen[b] + 1]) for a, b in zip(starts, ends, strict=True)]
        kept = pa.concat_tables([table.slice(a, b - a) for a, b in blocks] or [table.slice(0, 0)])
    else:
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = table.take(pa.array(np.repeat(first[chosen], counts) + offsets))
    return kept.set_column(0, "run", pa.array(np.repeat(np.arange(len(chosen), dtype=np.int32), counts)))


def _by_run(table: pa.Table) -> pa.Table:
    """Run after run."""
    runs = table["run"].to_numpy()
    return table if (np.diff(runs) >= 0).all() else table.take(pa.array(np.argsort(runs, kind="stable")))


def joined(parts: Sequence[Tables]) -> Tables:
    """One after another, the runs numbered through."""
    if len(parts) < 2:
        return parts[0] if parts else Gatherer().tables()
    before = np.cumsum([0, *(part.runs.num_rows for part in parts)]).astype(np.int32)

    def renumbered(table: pa.Table, first: np.int32) -> pa.Table:
        return table.set_column(0, "run", pa.array(table["run"].to_numpy() + first))

    rest = (
        pa.concat_tables(
            renumbered(getattr(part, name), first) for part, first in zip(parts, before[:-1], strict=True)
        ).unify_dictionaries()
        for name in ("starts", "curves", "probes")
    )
    return Tables(pa.concat_tables([part.runs for part in parts]), *rest)


class Gatherer:
    """Takes runs one by one. One thread parses their measurements while the next ones are read."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._starts: list[dict[str, Any]] = []
        self._waiting: list[Text] = []
        self._waiting_bytes = 0
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="parser")
        self._chunks: list[Future[Chunk]] = []

    def add(self, row: dict[str, Any], starts: list[dict[str, Any]], data: bytes, width: int) -> None:
        """A run: its digest, its measurements as in the file, and how many layers they list."""
        number = len(self._rows)
        self._rows.append(row)
        self._starts += [{"run": number, **start} for start in starts]
        if data:
            self._waiting.append(Text(number, data, width))
            self._waiting_bytes += len(data)
        if self._waiting_bytes > _CHUNK_BYTES:
            self._parse()

    def _parse(self) -> None:
        try:
            self._chunks.append(self._parser.submit(read_texts, self._waiting))
        except RuntimeError:  # no room for a thread below a limit on address space
            done: Future[Chunk] = Future()
            done.set_result(read_texts(self._waiting))
            self._chunks.append(done)
        self._waiting, self._waiting_bytes = [], 0

    def tables(self) -> Tables:
        """All that was added. To be called once."""
        self._parse()
        with self._parser:
            chunks = [chunk.result() for chunk in self._chunks]
        curves, probes = (
            _by_run(pa.concat_tables([getattr(chunk, name) for chunk in chunks]).unify_dictionaries())
            for name in ("curves", "probes")
        )
        notes = {run: note for chunk in chunks for run, note in chunk.notes.items()}
        found = results(curves, probes, len(self._rows))
        runs = pa.Table.from_pylist(
            [
                row | {"notes": "; ".join(filter(None, [notes.get(number), row["notes"]]))}
                for number, row in enumerate(self._rows)
            ],
            RUNS,
        )
        for name in found.columns:
            place = RUNS.get_field_index(name)
            runs = runs.set_column(place, RUNS.field(place), pa.array(found[name].to_numpy()))
        return Tables(runs, pa.Table.from_pylist(self._starts, STARTS), curves, probes)
