"""Which norm all others are compared with, and every cell against it: accuracy and shift, paired by seed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.accuracy import ACCURACY, DIRECTION
from reports.aggregate import cell_numbers, estimate_columns, summarise
from reports.frames import BN, CONTEXT, Frames, natural
from reports.stats import Outcome, compare_pairs, holm, judge
from suite.errors import UserError
from suite.metrics import METRICS, SHIFT_SIGMA, Direction

_LABELS_SHOWN = 12


@dataclass(frozen=True)
class Baseline:
    """The label of a norm, None where nothing is compared; and a sentence that says why there is none."""

    label: str | None
    note: str = ""


def resolve_baseline(frames: Frames, wanted: str | None = None) -> Baseline:
    """The norm with this label, in capitals or not; by default BN where it was run.

    Raises UserError, which lists the labels, when no run has the wanted one.
    """
    labels = frames.runs.sort_values(["norm_family", "norm"], key=natural).norm.drop_duplicates().tolist()
    by_name = {label.casefold(): label for label in reversed(labels)}
    if wanted is not None:
        label = wanted if wanted in labels else by_name.get(wanted.strip().casefold())
        if label is None:
            raise UserError(f"--baseline {wanted}: no run has this norm; there are {_listed(labels)}")
        return Baseline(label)
    if BN in labels:
        return Baseline(BN)
    note = f"{BN} was not run, so nothing is compared"
    if len(labels) > 1:
        note += f"; --baseline compares with one of {_listed(labels)}"
    return Baseline(None, f"{note}.")


def _listed(labels: list[str]) -> str:
    more = len(labels) - _LABELS_SHOWN
    return ", ".join(labels[:_LABELS_SHOWN]) + (f" and {more} more" if more > 0 else "")


# The rows of one set of layers (run, position, value) to a number for each run.
Measure = Callable[[pd.DataFrame], pd.Series]


def over_shared_layers(frames: Frames, baseline: str, metric: str, measure: Measure) -> pd.DataFrame:
    """A per-layer metric of completed runs, over the BN layers that a norm and the baseline both have.

    Columns: run, rival, value. A run of another norm has one line, with its own norm as `rival`; a run of
    the baseline one for each norm that it is compared with, since each shares other layers with it.
    """
    runs = frames.completed
    found = frames.layers.loc[frames.layers.metric == metric, ["run", "layer", "position", "value"]]
    found = found.astype({"value": float}).merge(runs[["run", "arch", "norm"]], on="run")
    by_arch = {str(arch): rows for arch, rows in found.groupby("arch", sort=False)}
    lines = [runs[["run", "norm"]].head(0).assign(value=0.0).rename(columns={"norm": "rival"})]
    for arch, layers, rivals in _shared(frames, baseline):
        rows = by_arch.get(arch, found.head(0))
        here = rows[rows.norm.isin([baseline, *rivals])]
        here = here[here.layer.isin(layers)]
        of_run = measure(here).rename("value").rename_axis("run").reset_index()
        of_run = of_run.merge(runs[["run", "norm"]], on="run").rename(columns={"norm": "rival"})
        is_base = of_run.rival == baseline
        for_each = of_run[is_base].drop(columns="rival").merge(pd.DataFrame({"rival": rivals}), how="cross")
        lines += [of_run[~is_base], for_each[["run", "rival", "value"]]]
    return pd.concat(lines, ignore_index=True)


def mean_over_layers(rows: pd.DataFrame) -> pd.Series:
    """A Measure: the mean; a NaN layer makes the run's mean NaN."""
    values = rows.groupby("run").value
    return values.mean().where(values.count() == values.size())


def _shared(frames: Frames, baseline: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Arch, layers that are shared, and the norms that share just these with the baseline."""
    for arch, variants in frames.bn_layers.items():
        norms: dict[tuple[str, ...], list[str]] = {}
        for norm in (norm for norm in variants if norm != baseline):
            names = set(variants[norm])
            shared = tuple(name for name in variants.get(baseline, ()) if name in names)
            norms.setdefault(shared, []).append(norm)
        yield from ((arch, list(layers), rivals) for layers, rivals in norms.items() if layers)


BASELINE = "_baseline"
_LAYOUT = [*CONTEXT, "batch_size_per_gpu"]


def pair_cells(frames: Frames, baseline: str) -> pd.DataFrame:
    """A row for each cell that is not the baseline's, beside the baseline's of the same context and batches.

    The columns are those of `summarise` and `cell`, and again with `_baseline` for the baseline's, which are
    NaN where it was not run. A norm without BN is the same run at every norm batch: it is compared at each,
    and `norm_batch_size` is the one compared at. Ordered by context and norm batch.
    """
    cells = summarise(frames, [])
    cells["cell"] = cells.index
    base, rivals = cells[cells.norm == baseline], cells[cells.norm != baseline]
    # Both sides have a norm batch, or only one has, or neither.
    bound = rivals.has_bn & bool(base.has_bn.all())
    same_batch = _merged(rivals[bound], base, [*_LAYOUT, "norm_batch_size"])
    at_each = _merged(rivals[~bound], base, _LAYOUT)
    theirs = at_each.norm_batch_size_baseline.where(~at_each.has_bn.astype(bool)).astype(float)
    at_each["norm_batch_size"] = theirs.fillna(at_each.norm_batch_size).astype(int)
    pairs = pd.concat([same_batch, at_each], ignore_index=True)
    order = pairs[CONTEXT].merge(cells[CONTEXT].drop_duplicates().reset_index(names="context"), on=CONTEXT)
    pairs = pairs.assign(context=order.context, is_free=~pairs.has_bn.astype(bool))
    by = ["context", "norm_batch_size", "batch_size_per_gpu", "is_free", "cell"]
    return pairs.sort_values(by, ignore_index=True).drop(columns=["context", "is_free"])


def _merged(rivals: pd.DataFrame, base: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    renamed = base.rename(columns={name: f"{name}{BASELINE}" for name in base if name not in keys})
    return rivals.merge(renamed, on=keys, how="left")


def compared(
    frames: Frames, pairs: pd.DataFrame, values: pd.DataFrame, *, ratio: bool = False
) -> pd.DataFrame:
    """Each row of `pairs` over the seeds that both sides completed: the columns of `_tested`.

    `values`: run and value; and rival, where a run of the baseline has one value for each norm that it is
    compared with (`over_shared_layers`).
    """
    return _tested(_by_seed(frames, pairs, values), pairs.index, ratio)


def _by_seed(frames: Frames, pairs: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """A line for each seed that both sides of a row completed: row, seed, value and its `_baseline`."""
    runs = frames.counted
    runs = runs.assign(cell=cell_numbers(runs))[["run", "cell", "seed", "state"]]
    done = runs[runs.state == "completed"].drop(columns="state").merge(values, on="run").drop(columns="run")
    same = [name for name in ("rival",) if name in values]
    cells = ["cell", f"cell{BASELINE}"]
    rows = pairs[["norm", *cells]].rename(columns={"norm": "rival"}).reset_index(names="row").dropna()
    theirs = done.rename(columns={name: f"{name}{BASELINE}" for name in ("cell", "value")})
    return (
        rows.astype(dict.fromkeys(cells, int))
        .merge(done, on=["cell", *same])
        .merge(theirs, on=[f"cell{BASELINE}", "seed", *same])
    )


def _tested(values: pd.DataFrame, rows: pd.Index, ratio: bool) -> pd.DataFrame:
    """Row by row: mean, low, high, n, effect_size, p, p_holm, outcome.

    Means of differences, or of ratios; p is adjusted by Holm over all rows.
    """
    ours, theirs = values["value"].to_numpy(float), values[f"value{BASELINE}"].to_numpy(float)
    places = values.groupby("row").indices
    found = []
    for row in rows:
        chosen = places.get(row, np.array([], dtype=int))
        found.append(compare_pairs(ours[chosen].tolist(), theirs[chosen].tolist(), ratio=ratio))
    table = pd.DataFrame(estimate_columns([one.estimate for one in found]), index=rows)
    table["effect_size"] = [one.effect_size for one in found]
    table["p"] = [one.p for one in found]
    table["p_holm"] = holm(table.p.tolist())
    neutral = 1.0 if ratio else 0.0
    table["outcome"] = [judge(one.estimate, p, neutral) for one, p in zip(found, table.p_holm, strict=True)]
    return table


def against_baseline(frames: Frames, baseline: str) -> pd.DataFrame:
    """A row for each cell and each baseline cell that it is compared with: see `pair_cells`.

    `top1_*` is the difference of final accuracy (top-1, AP) in points (ours − baseline), `esm_*` the ratio of
    mean scaled ESM σ over the BN layers that both have (ours / baseline): `_mean`, `_low`, `_high`, `_n`
    (pairs), `_effect_size` (Hedges' g_av), `_p` (paired t), `_p_holm` (over all rows), and `_verdict`:
    better, worse, inconclusive, too few seeds, or no pairs.
    """
    pairs = pair_cells(frames, baseline)
    values = frames.completed[["run", ACCURACY]].rename(columns={ACCURACY: "value"})
    top1 = compared(frames, pairs, values)
    esm = over_shared_layers(frames, baseline, SHIFT_SIGMA, mean_over_layers)
    esm = compared(frames, pairs, esm, ratio=True)
    top1["verdict"] = [verdict_word(o, DIRECTION) for o in top1.pop("outcome")]
    esm["verdict"] = [verdict_word(o, METRICS[SHIFT_SIGMA].direction) for o in esm.pop("outcome")]
    return pd.concat([pairs, top1.add_prefix("top1_"), esm.add_prefix("esm_")], axis=1)


def verdict_word(outcome: Outcome, direction: Direction) -> str:
    """An outcome as better or worse, by the metric's direction; what is neither stays."""
    if outcome in ("higher", "lower") and direction != "neither":
        return "better" if outcome == direction else "worse"
    return outcome
