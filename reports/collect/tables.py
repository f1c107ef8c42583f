"""Digests as columns: four Arrow tables, in which `run` is a row of the first."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from reports.collect.digest import BEST_TOP1, SCALAR_METRICS, Digest

_TEXT = ["run_id", "experiment", "arch", "data", "norm", "deciding", "state", "reason", "job", "nodes"]
_TEXT += ["folder", "notes", "layers", "device", "device_type"]
_WHOLE = ["norm_rank", "global_batch_size", "batch_size_per_gpu", "norm_batch_size", "seed", "epochs"]
_WHOLE += ["attempts", "restarts", "lost_steps", "epoch", "world_size"]
_REAL = ["rank_s", "queue_wait_s", *SCALAR_METRICS, BEST_TOP1]
RUNS = pa.schema(
    [(name, pa.string()) for name in _TEXT]
    + [(name, pa.int64()) for name in _WHOLE]
    + [(name, pa.float64()) for name in _REAL]
)
STARTS = pa.schema(
    [
        ("run", pa.int32()),
        ("started_at", pa.float64()),
        ("git_sha", pa.string()),
        ("git_dirty", pa.bool_()),
        ("device", pa.string()),
        ("device_type", pa.string()),
        ("world_size", pa.int64()),
        ("hosts", pa.string()),
        ("versions", pa.string()),
    ]
)
_NAME = pa.dictionary(pa.int16(), pa.string())
CURVES = pa.schema(
    [("run", pa.int32()), ("metric", _NAME), ("split", _NAME), ("epoch", pa.int32()), ("value", pa.float64())]
)
PROBES = pa.schema(
    [("run", pa.int32()), ("metric", _NAME), ("epoch", pa.int32()), ("values", pa.large_list(pa.float64()))]
)


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
        place = np.full(self.runs.num_rows, -1, dtype=np.int32)
        place[chosen] = np.arange(len(chosen), dtype=np.int32)

        def renumbered(table: pa.Table) -> pa.Table:
            new = place[table["run"].to_numpy()]
            table, rows = table.set_column(0, "run", pa.array(new)), np.flatnonzero(new >= 0)
            if (np.diff(new[rows]) < 0).any():
                rows = rows[np.argsort(new[rows], kind="stable")]
            elif len(rows) == len(new):
                return table
            return table.take(pa.array(rows))

        rest = map(renumbered, (self.starts, self.curves, self.probes))
        return Tables(self.runs.take(pa.array(chosen)), *rest)


def joined(parts: Sequence[Tables]) -> Tables:
    """One after another, the runs numbered through."""
    if len(parts) == 1:
        return parts[0]
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
    """Takes digests one by one, as columns: Python objects for ten thousand runs fill gigabytes."""

    def __init__(self) -> None:
        self._names: dict[str | None, int] = {}
        self._rows: list[dict[str, object]] = []
        self._starts: list[dict[str, object]] = []
        self._curves = (array("i"), array("h"), array("h"), array("i"), array("d"))
        self._probes = (array("i"), array("h"), array("i"))
        self._lengths, self._values = array("q"), array("d")

    def add(self, digest: Digest) -> None:
        number = len(self._rows)
        self._rows.append(digest.row)
        self._starts += [{"run": number, **start} for start in digest.starts]
        run, metrics, splits, epochs, values = self._curves
        code = self._code
        for metric, split, epoch, value in digest.curves:
            run.append(number)
            metrics.append(code(metric))
            splits.append(-1 if split is None else code(split))
            epochs.append(epoch)
            values.append(value)
        for metric, epoch, layers in digest.probes:
            self._probes[0].append(number)
            self._probes[1].append(code(metric))
            self._probes[2].append(epoch)
            self._lengths.append(len(layers))
            self._values.extend(layers)

    def _code(self, name: str) -> int:
        found = self._names.get(name)
        if found is None:
            found = self._names[name] = len(self._names)
        return found

    def tables(self) -> Tables:
        run, metrics, splits, epochs, values = self._curves
        curves = [pa.array(np.asarray(run)), self._named(metrics), self._named(splits)]
        curves += [pa.array(np.asarray(epochs)), pa.array(np.asarray(values))]
        offsets = np.concatenate([[0], np.cumsum(np.asarray(self._lengths))]).astype(np.int64)
        lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.asarray(self._values)))
        probes = [pa.array(np.asarray(self._probes[0])), self._named(self._probes[1])]
        probes += [pa.array(np.asarray(self._probes[2])), lists]
        return Tables(
            pa.Table.from_pylist(self._rows, RUNS),
            pa.Table.from_pylist(self._starts, STARTS),
            pa.Table.from_arrays(curves, schema=CURVES),
            pa.Table.from_arrays(probes, schema=PROBES),
        )

    def _named(self, codes: "array[int]") -> pa.DictionaryArray:
        found = np.asarray(codes)
        names = pa.array(list(self._names), pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(found, mask=found < 0), names)
