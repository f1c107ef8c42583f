"""Tables with a row for each cell of an experiment: the summary and the mean estimation shift."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from rich.box import HEAVY_HEAD
from rich.console import Console

from reports.aggregate import UNFINISHED, estimate_of, summarise
from reports.frames import AXIS_HEADERS, BEST_TOP1, GROUP, Frames, natural
from reports.numbers import EMPTY, Number, all_have, count_cell, estimate_cell, listed, plural
from reports.tables.table import MAX_ROWS, Cell, Column, Table, cut_short
from suite.metrics import CROSS, METRICS, OF_AVERAGES, OF_CLIENTS, PROBED, SHIFT_MU, SHIFT_SIGMA, Direction
from suite.terminal import print_rows

# Of a task's runs, the columns of accuracy by their headings.
ACCURACY_COLUMNS = {
    "classification": {
        "Top-1, final (%)": "top1_percent",
        "Top-1, best epoch (%)": BEST_TOP1,
        "Top-1, PreciseBN (%)": "top1_precise_percent",
    },
    "detection": {
        **{f"{METRICS[name].title} (%)": name for name in ("ap_percent", "ap50_percent", "ap75_percent")},
        "Mask AP (%)": "mask_ap_percent",
        "AP, PreciseBN (%)": "ap_precise_percent",
    },
}
SUMMARY_METRICS = [
    *(metric for columns in ACCURACY_COLUMNS.values() for metric in columns.values()),
    f"{SHIFT_SIGMA}_common",
    f"{SHIFT_MU}_common",
    "images_per_s",
]
# The first columns of the shift table, also over all layers of a run; then the probe's other metrics, except
# those that have a table of their own.
_FIRST, _SECOND = (SHIFT_SIGMA, SHIFT_MU), ("esm_sigma", "esm_mu")
_OTHERS = [*_SECOND, *(name for name in PROBED if name not in (*_FIRST, *_SECOND, *CROSS))]
# Of networks that a run has beside its own: averages of weights and federated clients.
_BESIDE = [*OF_AVERAGES, *OF_CLIENTS]
_CROSS = sorted(CROSS, key=lambda name: ("scaled" not in name, "sigma" not in name))
MakeCell = Callable[[pd.Series], Cell]
_ALWAYS = ("norm", "norm_batch_size")
_BEST = "Bold: the best mean of its block, where its 95 % interval is apart from those of all others."
_NO_ESTIMATES = f"{EMPTY} in a shift column of a norm without BN: it has no estimated statistics to shift."


def summary_display(frames: Frames) -> Table:
    """The headline: accuracy, shift and throughput by model and batch."""
    beside = [metric for metric in _BESIDE if not METRICS[metric].per_layer]
    table = summarise(frames, [*SUMMARY_METRICS, *beside])
    tasks = [kind for kind in ACCURACY_COLUMNS if (frames.counted.task == kind).any()]
    shown = dict(item for kind in tasks or ["classification"] for item in ACCURACY_COLUMNS[kind].items())
    if not table["mask_ap_percent_n"].any():
        shown.pop("Mask AP (%)", None)
    cells: dict[str, MakeCell] = {
        "Runs": runs_text,
        **{heading: MetricCell(metric, decimals=2) for heading, metric in shown.items()},
        **{
            f"{METRICS[metric].title} (%)": MetricCell(metric, decimals=2)
            for metric in beside
            if table[f"{metric}_n"].any()
        },
        "Scaled ESM σ, common layers": MetricCell(f"{SHIFT_SIGMA}_common"),
        "Scaled ESM μ, common layers": MetricCell(f"{SHIFT_MU}_common"),
        # Speeds of different machines have no mean.
        "Images/s": lambda row: "mixed hardware" if row.mixed_hardware else MetricCell("images_per_s")(row),
    }
    notes = [
        "± is half of a 95 % interval over seeds (Student's t); of two seeds both values are given, and one "
        "seed says so.",
        "Runs: completed of planned. Planned is an experiment's product: each norm at each batch, with each "
        "seed that it uses anywhere; what is missing is counted, and only completed runs enter the means.",
        *common_layer_notes(frames),
    ]
    if not table.has_bn.all():
        notes.append(_NO_ESTIMATES)
    return by_cell("Summary", table, cells, notes)


def shift_display(frames: Frames) -> Table | None:
    """Both means of ESM, and the other per-layer metrics that were measured; None when nothing was probed."""
    columns = [f"{metric}_{mean}" for metric in _FIRST for mean in ("common", "mean")]
    further = [*_OTHERS, *(metric for metric in _BESIDE if METRICS[metric].per_layer)]
    table = summarise(frames, [*columns, *(f"{metric}_common" for metric in further)])
    others = [metric for metric in further if metric in _SECOND or table[f"{metric}_common_n"].any()]
    if not any(table[f"{c}_n"].any() for c in (*columns, *(f"{metric}_common" for metric in others))):
        return None
    cells: dict[str, MakeCell] = {
        "Runs": runs_text,
        "BN layers": lambda row: count_cell(row.num_bn_layers) if row.num_bn_layers else EMPTY,
    }
    for metric in _FIRST:
        cells[f"{title_of(metric)}, common layers"] = MetricCell(f"{metric}_common")
        cells[f"{title_of(metric)}, all its BN layers"] = MetricCell(f"{metric}_mean", ranked=False)
    cells |= {f"{title_of(metric)}, common layers": MetricCell(f"{metric}_common") for metric in others}
    notes = [
        "Means over layers, at the last probe, then over seeds. A variant with fewer BN layers averages over "
        "other layers; only the common layers compare like with like.",
        *common_layer_notes(frames),
    ]
    if not table.has_bn.all():
        notes.append(_NO_ESTIMATES)
    return by_cell("Mean estimation shift", table, cells, notes)


def cross_half_display(frames: Frames) -> Table | None:
    """The means of ESM that are free of its bias by sampling; None when no probe recorded them."""
    columns = [f"{metric}_common" for metric in _CROSS]
    table = summarise(frames, columns)
    table = table[table.has_bn.astype(bool)].reset_index(drop=True)
    if not any(table[f"{column}_n"].any() for column in columns):
        return None
    cells: dict[str, MakeCell] = {"Runs": runs_text}
    for metric, column in zip(_CROSS, columns, strict=True):
        cells[f"{title_of(metric)}, common layers"] = MetricCell(column)
    notes = [
        "Sampling errors of the expected statistics raise ESM, but not these values, since the two halves of "
        "a probe's batches err independently. A negative value is one that cannot be told from zero. A probe "
        "of fewer than four batches has no such value.",
        *common_layer_notes(frames),
    ]
    return by_cell("Estimation shift without sampling bias", table, cells, notes)


def title_of(metric: str) -> str:
    """A metric's title as a column names it: `Scaled ESM σ` rather than `ESM σ, scaled`."""
    title = METRICS[metric].title
    return f"Scaled {title.replace(', scaled', '')}" if ", scaled" in title else title


def common_layer_notes(frames: Frames) -> list[str]:
    """Name for each arch the layers that its common mean is over."""
    notes = []
    for arch, common in frames.common_layers.items():
        labels = frames.runs[(frames.runs.arch == arch) & (frames.runs.num_bn_layers > 0)]
        names = list(dict.fromkeys(labels.sort_values(["norm_family", "norm"], key=natural).norm))
        if not names:
            continue
        if not common:
            text = f"{listed(names)} have no BN layer in common, so there is no common-layer mean"
        elif len(names) > 1:
            text = f"common layers are the {len(common)} BN layers that {all_have(names)}"
        else:
            text = f"only {names[0]} was probed, so its {len(common)} BN layers are the common ones"
        notes.append(f"{arch}: {text}.")
    return notes


@dataclass(frozen=True)
class MetricCell:
    """A metric's mean and interval in a row of `summarise`.

    `seeds`: whether to name their number where some lack a value. `ranked`: whether the rows of a block
    compare, so that one is the best.
    """

    metric: str
    decimals: int | None = None
    factor: float = 1.0
    seeds: bool = True
    ranked: bool = True

    def __call__(self, row: pd.Series) -> Number | str:
        expected = row.completed if self.seeds else row[f"{self.metric}_n"]
        estimate = estimate_of(row, self.metric)
        return estimate_cell(estimate, int(expected), self.decimals, self.factor, say_one=self.seeds)

    @property
    def better(self) -> Direction:
        if not self.ranked:
            return "neither"
        known = self.metric.removeprefix("best_").removesuffix("_common").removesuffix("_mean")
        return METRICS[known].direction


def runs_text(row: pd.Series, side: str = "") -> str:
    """`2 of 3 (1 diverged)`, from the columns that end in `side`; a dash where there is no such cell."""
    if pd.isna(row[f"planned{side}"]):
        return EMPTY
    counts = {state: int(row[f"{state}{side}"]) for state in ("completed", "planned", *UNFINISHED)}
    missing = [
        f"{counts[state]}\u00a0{state.replace('_', chr(0xA0))}" for state in UNFINISHED if counts[state]
    ]
    return f"{counts['completed']} of {counts['planned']}" + (f" ({', '.join(missing)})" if missing else "")


def by_cell(
    title: str,
    table: pd.DataFrame,
    cells: Mapping[str, MakeCell],
    notes: list[str],
    extra_keys: Sequence[str] = (),
    texts: Collection[str] = ("Runs",),
    at_each: bool = False,
) -> Table:
    """The rows of `summarise` with a column for each of `cells` behind the axes; `texts` are not numbers.

    A norm without BN has no norm batch, unless with `at_each` its row is about one that others have.

    Axes that never vary go to the caption: a column of one value says nothing. Columns of nothing but dashes
    are left out. A block is what compares:
    one model, data set, norm batch, and one value of each of `extra_keys`.
    """
    axes = [axis for axis in AXIS_HEADERS if axis in (*GROUP, *extra_keys)]
    columns = [a for a in axes if a in _ALWAYS or table[a].astype(str).nunique() > 1]
    constant = [a for a in axes if a not in columns and str(table[a].iloc[0]) not in ("", "None", "nan")]
    alike = ", ".join(
        f"{AXIS_HEADERS[a][0].lower()}{AXIS_HEADERS[a][1:]} {_axis_cell(table[a].iloc[0])}" for a in constant
    )
    same = [*(a for a in GROUP if a not in ("norm", "batch_size_per_gpu")), *extra_keys]
    block = table.groupby(same, sort=False, dropna=False).ngroup()
    order = block.sort_values(kind="stable").index[:MAX_ROWS]
    shown, blocks = table.loc[order].astype({"norm_batch_size": object}), block[order].tolist()
    if not at_each:
        shown["norm_batch_size"] = shown.norm_batch_size.where(shown.has_bn.astype(bool), None)
    rows = [
        [*(_axis_cell(row[a]) for a in columns), *(make(row) for make in cells.values())]
        for _, row in shown.iterrows()
    ]
    told = [i for i in range(len(cells)) if any(str(row[len(columns) + i]) != EMPTY for row in rows)]
    kept = [*range(len(columns)), *(len(columns) + i for i in told)]
    rows = [[row[i] for i in kept] for row in rows]
    headers = [Column(AXIS_HEADERS[a], "number" if _is_number(a) else "text") for a in columns]
    headers += [
        Column(name, "text" if name in texts else "number", getattr(make, "better", "neither"))
        for place, (name, make) in enumerate(cells.items())
        if place in told
    ]
    caption = [f"All rows: {alike}."] if alike else []
    caption += cut_short(len(table))
    breaks = frozenset(i for i in range(1, len(blocks)) if blocks[i] != blocks[i - 1])
    belongs = [
        {str(axis): str(value) for axis, value in row.items() if value is not None}
        for row in shown[GROUP].to_dict("records")
    ]
    made = Table(title, headers, rows, 0, " ".join(caption), notes, breaks, belongs=belongs)
    return replace(made, notes=[*notes, _BEST]) if made.best else made


def _is_number(axis: str) -> bool:
    return "batch" in axis or axis == "world_size"


def _axis_cell(value: object) -> Cell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return EMPTY
    return str(value) if isinstance(value, str) else count_cell(int(value))  # type: ignore[call-overload]


def print_summary(console: Console, frames: Frames) -> None:
    """For a terminal: runs, final accuracy, mean ESM σ over the common layers, and throughput."""
    table = summary_display(frames)
    left_out = {"Top-1, best epoch (%)", "Top-1, PreciseBN (%)", "Scaled ESM μ, common layers"}
    left_out |= {"AP75 (%)", "AP, PreciseBN (%)"}
    print_table(console, table, left_out)
    done = f"{len(frames.completed)} of {plural(int(frames.runs.counted.sum()), 'run')} completed."
    for note in filter(None, [table.caption, *common_layer_notes(frames), done]):
        console.print(note, style="dim", markup=False, highlight=False)


def print_table(console: Console, table: Table, left_out: Collection[str] = ()) -> None:
    """A table for a terminal, without the columns that are left out and without its caption and notes."""
    shown = [i for i, column in enumerate(table.columns) if column.header not in left_out]
    print_rows(
        console,
        [table.columns[i].header for i in shown],
        [[str(row[i]) for i in shown] for row in table.rows],
        numbers=[place for place, i in enumerate(shown) if table.columns[i].kind == "number"],
        box=HEAVY_HEAD,
        breaks=table.breaks,
    )
