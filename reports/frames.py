"""A collection as data frames: one row per run, per attempt, per run and epoch, per run and layer.

Every table and figure is computed from these, so that a run is counted the same way everywhere.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reports.accuracy import ACCURACY, accuracy_of
from reports.collect import Collection
from reports.collect.measurements import PROBES
from reports.collect.tables import BEST_TOP1, SCALAR_METRICS
from reports.numbers import natural_ranks
from reports.planned_runs import unstarted_cells
from reports.settings import settings_texts, varying_fields
from suite.errors import UserError
from suite.experiment import BatchNormSpec
from suite.metrics import METRICS
from suite.paths import RunPaths
from suite.record import RobustnessRecord, read_robustness

__all__ = ["BEST_TOP1", "CONTEXT", "GROUP", "SCALAR_METRICS", "SHIFT_METRICS", "Frames", "build_frames"]

# Frames are small: the merges and filters of Arrow's strings take several times as long as those of Python's.
pd.set_option("mode.string_storage", "python")

# What makes two runs seeds of the same thing; `settings` is whatever else decides the result and varies.
CONTEXT = ["arch", "data", "settings", "global_batch_size"]
GROUP = [*CONTEXT, "batch_size_per_gpu", "norm_batch_size", "norm"]
CELL_AXES = [name for name in GROUP if name != "settings"]
AXIS_HEADERS = {
    "norm": "Norm",
    "norm_batch_size": "Norm batch",
    "arch": "Model",
    "data": "Data",
    "settings": "Settings",
    "global_batch_size": "Global batch",
    "batch_size_per_gpu": "Batch per GPU",
    "device": "Device",
    "world_size": "Ranks",
}
# In the order of tables and legends.
NORM_FAMILIES = ("bn", "bn_variant", "xbn", "batch_free")
BN = BatchNormSpec().label
SHIFT_METRICS = [m.name for m in METRICS.values() if m.per_layer]


@dataclass(frozen=True)
class Frames:
    """The runs as data.

    `runs`: GROUP, seed, state, what the run cost (suite.record.Costs), the newest value of every scalar
    metric under its name, and for each per-layer metric `<name>_mean` over the run's own BN layers and
    `<name>_common` over the layers that all variants of the arch with BN share, of which a run completed.
    `counted` is false for a second copy of a run, `is_of_study` true where a study has run it. `starts`: an
    attempt's provenance, with its run.
    `curves`: run, epoch, metric, split, value. `layers`: run, metric, layer, position, value, where
    position orders the layers of all variants of an arch on one axis. `layers` holds the newest probe of a
    run; `shift_by_epoch` has the earlier ones. `bn_layers`: of each arch and norm, as completed runs have it.
    """

    runs: pd.DataFrame
    starts: pd.DataFrame
    layers: pd.DataFrame
    bn_layers: dict[str, dict[str, list[str]]]
    common_layers: dict[str, list[str]]
    collection: Collection
    positions: dict[str, dict[str, int]]

    @cached_property
    def counted(self) -> pd.DataFrame:
        """The runs without second copies."""
        return self.runs[self.runs.counted]

    @cached_property
    def completed(self) -> pd.DataFrame:
        """The runs that results are made of."""
        return self.counted[self.counted.state == "completed"]

    @cached_property
    def robustness(self) -> tuple[dict[int, RobustnessRecord], list[str]]:
        """The records of robustness of completed runs, by run; and the folders of malformed ones."""
        by_run, malformed = {}, []
        for run, folder in zip(self.completed.run, self.completed.folder, strict=True):
            try:
                found = read_robustness(RunPaths(str(folder)))
            except UserError:
                malformed.append(Path(str(folder)).name)
                continue
            if found is not None:
                by_run[int(run)] = found
        return by_run, malformed

    @cached_property
    def unstarted(self) -> pd.DataFrame:
        """The cells that were planned and have no run: see `planned_runs.unstarted_cells`."""
        return unstarted_cells(self.counted)

    @property
    def deciding(self) -> list[str]:
        """For each run what decides its result, as JSON."""
        texts = self.collection.tables.runs["deciding"]
        return texts.take(pa.array(self.runs.run.to_numpy())).to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Every scalar ever measured."""
        curves: pd.DataFrame = self.collection.tables.curves.to_pandas()
        return curves

    def shift_by_epoch(self, runs: Sequence[int], metric: str) -> pd.DataFrame:
        """Mean of a per-layer metric over these runs (of one arch): epoch, layer, position, value, seeds."""
        probes = self.collection.tables.probes
        wanted = probes["run"].to_pandas().isin(runs) & (probes["metric"].to_pandas() == metric)
        long = _spread(probes.filter(pa.array(wanted)), self._layer_names)
        means = long.groupby(["epoch", "layer"], as_index=False, observed=True).agg(
            value=("value", "mean"), seeds=("run", "nunique")
        )
        arch = self.runs.set_index("run").arch.reindex(list(runs)).iloc[0] if len(runs) else ""
        means["layer"] = means.layer.astype(object)
        means["position"] = means.layer.map(self.positions.get(arch, {}))
        return means.sort_values(["epoch", "position"], ignore_index=True)

    @cached_property
    def _layer_names(self) -> list[list[str]]:
        return _layer_names(self.collection.tables.runs)


def build_frames(collection: Collection) -> Frames:
    """Ordered by model, data, batch, norm (BN first) and seed; `run` is a row of the collection's tables."""
    tables = collection.tables
    runs: pd.DataFrame = tables.runs.drop_columns(["deciding", "layers"]).to_pandas()
    runs.insert(0, "run", np.arange(len(runs)))
    runs["norm_family"] = pd.Categorical(runs.norm_family, NORM_FAMILIES, ordered=True)
    runs[["position", "bfn"]] = runs[["position", "bfn"]].fillna("")
    runs[ACCURACY] = accuracy_of(runs)
    runs["has_bn"] = runs.norm_family < "batch_free"
    # Without them, two learning rates in one folder would pass for two seeds.
    deciding = tables.runs["deciding"].to_pylist()
    runs["settings"] = settings_texts(deciding, varying_fields(runs[CELL_AXES], deciding))
    runs["counted"] = _counted(runs)
    runs["is_of_study"] = _of_studies(runs)
    names, newest = _layer_names(tables.runs), _newest_probes(tables.probes)
    probed = newest["run"].to_numpy()[pc.list_value_length(newest["values"]).to_numpy() > 0]
    is_probed = runs.run.isin(set(probed.tolist()))
    bn_layers = _by_norm(runs[is_probed & runs.counted & (runs.state == "completed")], names)
    common = _common(bn_layers)
    positions = _positions(_by_norm(runs[is_probed], names))
    layers = _spread(newest, names).drop(columns="epoch")
    _place(layers, runs, common, positions)
    runs = _with_shift_means(runs, layers)
    order = ["arch", "data", "settings", "global_batch_size", "norm_batch_size", "batch_size_per_gpu"]
    by = [*order, "norm_family", "norm", "seed"]
    runs = runs.sort_values(by, ignore_index=True, kind="stable", key=natural)
    return Frames(runs, tables.starts.to_pandas(), layers, bn_layers, common, collection, positions)


def natural(column: pd.Series) -> pd.Series:
    """The key by which pandas sorts names as people count; other columns stay."""
    if column.name in ("arch", "data", "settings", "norm"):
        return column.map(natural_ranks(column.unique()))
    return column


def _of_studies(runs: pd.DataFrame) -> list[bool]:
    """For each run whether a study was its experiment: that has a folder beside its runs."""
    keys = [(os.path.dirname(f), e) for f, e in zip(runs.folder, runs.experiment, strict=True)]  # noqa: PTH120
    known = {key: (Path(key[0]) / "studies" / key[1] / "study.json").exists() for key in dict.fromkeys(keys)}
    return [known[key] for key in keys]


def _counted(runs: pd.DataFrame) -> pd.Series:
    """One folder for each run_id: a completed one if there is any, then the one that got furthest."""
    rank = pd.DataFrame({"run_id": runs.run_id, "done": runs.state == "completed", "epoch": runs.epoch})
    chosen = (
        rank.sort_values(["done", "epoch"], ascending=False, kind="stable").drop_duplicates("run_id").index
    )
    return pd.Series(runs.index.isin(chosen), index=runs.index)


# ---------------------------------------------------------------- layers


def _layer_names(runs: pa.Table) -> list[list[str]]:
    """By run; runs of one network share one list."""
    texts = runs["layers"].to_pylist()
    parsed = {text: list(json.loads(text)) for text in dict.fromkeys(texts)}
    return [parsed[text] for text in texts]


def _newest_probes(probes: pa.Table) -> pa.Table:
    """The last row of each run and metric."""
    keys = pd.DataFrame({"run": probes["run"].to_numpy(), "metric": probes["metric"].to_pandas()})
    return probes.filter(pa.array(~keys.duplicated(keep="last").to_numpy()))


def _spread(probes: pa.Table, names: Sequence[Sequence[str]]) -> pd.DataFrame:
    """A row for each layer: run, metric, epoch, layer, value."""
    values = pa.concat_arrays(list(probes["values"].chunks) or [pa.array([], PROBES.field("values").type)])
    lengths = values.value_lengths().to_numpy()
    run, metric = probes["run"].to_numpy(), probes["metric"].to_pandas().cat
    codes: dict[str, int] = {}
    by_list = {
        id(one): np.array([codes.setdefault(n, len(codes)) for n in one], dtype=np.int64) for one in names
    }
    layer = [by_list[id(names[r])][:n] for r, n in zip(run, lengths, strict=True)]
    layers = np.concatenate(layer) if layer else np.array([], dtype=np.int64)
    return pd.DataFrame(
        {
            "run": np.repeat(run, lengths),
            "metric": pd.Categorical.from_codes(np.repeat(metric.codes, lengths), metric.categories),
            "epoch": np.repeat(probes["epoch"].to_numpy(), lengths),
            "layer": pd.Categorical.from_codes(layers.tolist(), pd.Index(list(codes), dtype=object)),
            "value": values.flatten().to_numpy(),
        }
    )


def _by_norm(runs: pd.DataFrame, names: Sequence[Sequence[str]]) -> dict[str, dict[str, list[str]]]:
    """The BN layers of each arch and norm among these runs."""
    found: dict[str, dict[str, list[str]]] = {}
    for number, arch, norm in zip(runs.run, runs.arch, runs.norm, strict=True):
        found.setdefault(arch, {}).setdefault(norm, list(names[number]))
    return found


def _common(bn_layers: dict[str, dict[str, list[str]]]) -> dict[str, list[str]]:
    """By arch: the layers that all norms have, in forward order."""
    return {
        arch: [n for n in merge_orders(norms.values()) if all(n in set(one) for one in norms.values())]
        for arch, norms in bn_layers.items()
    }


def _positions(bn_layers: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, int]]:
    """By arch: every layer's place on the axis of all its norms."""
    return {
        arch: {name: place for place, name in enumerate(merge_orders(norms.values()))}
        for arch, norms in bn_layers.items()
    }


def merge_orders(orders: Iterable[Sequence[str]]) -> list[str]:
    """One order of all names: the longest list's, the names of the others after their neighbours."""
    merged: list[str] = []
    for names in sorted(orders, key=len, reverse=True):
        place = 0
        for name in names:
            if name in merged:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                place += 1
    return merged


def _place(
    layers: pd.DataFrame,
    runs: pd.DataFrame,
    common: dict[str, list[str]],
    positions: dict[str, dict[str, int]],
) -> None:
    """Add each layer's `position` on the axis of its arch, and whether all variants have it (`common`)."""
    archs = list(runs.arch.unique())
    shape = (len(archs), -1)
    categories = list(layers.layer.cat.categories)
    known = [(positions.get(a, {}), set(common.get(a, []))) for a in archs]
    place = np.array([[p.get(n, -1) for n in categories] for p, _ in known]).reshape(shape)
    shared = np.array([[n in c for n in categories] for _, c in known]).reshape(shape)
    arch = runs.arch.map({a: i for i, a in enumerate(archs)}).to_numpy()[layers.run.to_numpy()]
    code = layers.layer.cat.codes.to_numpy()
    layers["position"] = place[arch, code] if len(layers) else np.array([], dtype=np.int64)
    layers["common"] = shared[arch, code].astype(bool) if len(layers) else np.array([], dtype=bool)
    layers["layer"] = layers.layer.astype(object)


def _with_shift_means(runs: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Add `<metric>_mean` and `<metric>_common`. A NaN layer makes the run's mean NaN."""
    for suffix, chosen in (("mean", layers), ("common", layers[layers.common])):
        groups = chosen.assign(is_missing=chosen.value.isna()).groupby(["run", "metric"], observed=True)
        means = groups.value.mean().where(~groups.is_missing.any()).unstack()
        means = means.reindex(index=runs.run, columns=SHIFT_METRICS).set_axis(runs.index)
        runs = runs.join(means.add_suffix(f"_{suffix}"))
    counts = layers[~layers.duplicated(["run", "layer"])].run.value_counts()
    return runs.assign(num_bn_layers=runs.run.map(counts).fillna(0).astype(int))
