"""Frames to tables: numbers first (`summary_table`), then the same as text that every format prints."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from reports.aggregate import HARDWARE, UNFINISHED, estimate_of, summarise
from reports.frames import BEST_TOP1, GROUP, Frames
from reports.numbers import EMPTY, estimate_text, plural
from reports.stats import BCA_FROM

SUMMARY_METRICS = [
    "top1_percent",
    BEST_TOP1,
    "top1_precise_percent",
    "esm_sigma_common",
    "esm_mu_common",
    "images_per_s",
]
SHIFT_COLUMNS = [f"{metric}_{mean}" for metric in ("esm_sigma", "esm_mu") for mean in ("common", "mean")]
SHIFT_COLUMNS += ["esm_sigma_scaled_common", "esm_mu_scaled_common"]
THROUGHPUT_METRICS = [
    "images_per_s",
    "step_time_p50_ms",
    "step_time_p95_ms",
    "data_wait_share",
    "peak_memory_gib",
    "epoch_time_s",
    "flops_per_image",
    "matmul_peak_share",
]
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
_ALWAYS = ("norm", "norm_batch_size")
_NO_ESTIMATES = f"{EMPTY} in a shift column of a norm without BN: it has no estimated statistics to shift."


@dataclass(frozen=True)
class Column:
    """A header; whether its cells are numbers (and stand to the right), or sentences (and need room)."""

    header: str
    numeric: bool = True
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table as text. The cells of `row_header` name their rows; `breaks` are rows that open a new block."""

    title: str
    columns: list[Column]
    rows: list[list[str]]
    row_header: int = 0
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    breaks: frozenset[int] = frozenset()


def summary_table(frames: Frames) -> pd.DataFrame:
    """One row for each cell of an experiment, aggregated over its seeds.

    Columns: the axes (frames.GROUP); `planned`, `completed` and the other states as counts; for each of
    SUMMARY_METRICS its `_mean`, `_low`, `_high` (95 % interval, NaN for one seed) and `_n`.
    """
    return summarise(frames, SUMMARY_METRICS)


# ---------------------------------------------------------------- as text


def summary_display(frames: Frames) -> Table:
    """The headline: accuracy, shift and throughput by model and batch."""
    table = summarise(frames, SUMMARY_METRICS)
    cells: dict[str, Callable[[pd.Series], str]] = {
        "Runs": runs_text,
        "Top-1, final (%)": _metric("top1_percent", decimals=2),
        "Top-1, best epoch (%)": _metric(BEST_TOP1, decimals=2),
        "Top-1, PreciseBN (%)": _metric("top1_precise_percent", decimals=2),
        "Mean ESM σ, common layers": _metric("esm_sigma_common"),
        "Mean ESM μ, common layers": _metric("esm_mu_common"),
        # Speeds of different machines have no mean.
        "Images/s": lambda row: "mixed hardware" if row.mixed_hardware else _metric("images_per_s")(row),
    }
    notes = [
        f"± is half of a 95 % interval over seeds (Student's t; from {BCA_FROM} seeds on BCa, in brackets); "
        "one seed gives no interval, and says so.",
        "Runs: completed of planned. Planned is every seed that the same experiment uses anywhere; what is "
        "missing is counted, and only completed runs enter the means.",
        *common_layer_notes(frames),
    ]
    if not table.has_bn.all():
        notes.append(_NO_ESTIMATES)
    return by_cell("Summary", table, cells, notes)


def shift_display(frames: Frames) -> Table | None:
    """Both means of ESM, and the scale-free ones; None when nothing was probed."""
    table = summarise(frames, SHIFT_COLUMNS)
    if not any(table[f"{c}_n"].sum() for c in SHIFT_COLUMNS):
        return None
    cells: dict[str, Callable[[pd.Series], str]] = {
        "Runs": runs_text,
        "BN layers": lambda row: str(row.num_bn_layers) if row.num_bn_layers else EMPTY,
        "ESM σ, common layers": _metric("esm_sigma_common"),
        "ESM σ, all its BN layers": _metric("esm_sigma_mean"),
        "ESM μ, common layers": _metric("esm_mu_common"),
        "ESM μ, all its BN layers": _metric("esm_mu_mean"),
        "ESM σ scaled, common": _metric("esm_sigma_scaled_common"),
        "ESM μ scaled, common": _metric("esm_mu_scaled_common"),
    }
    notes = [
        "Means over layers, at the last probe, then over seeds. A variant with fewer BN layers averages over "
        "other layers; only the common layers compare like with like.",
        *common_layer_notes(frames),
    ]
    if not table.has_bn.all():
        notes.append(_NO_ESTIMATES)
    return by_cell("Mean estimation shift", table, cells, notes)


def throughput_display(frames: Frames) -> Table | None:
    """Speed and memory by cell and hardware; None when no run measured any."""
    table = summarise(frames, THROUGHPUT_METRICS, HARDWARE)
    table = table[table[[f"{m}_n" for m in THROUGHPUT_METRICS]].sum(axis=1) > 0].reset_index(drop=True)
    if table.empty:
        return None
    cells: dict[str, Callable[[pd.Series], str]] = {
        "Seeds": lambda row: str(row.images_per_s_n),
        "Images/s": _metric("images_per_s", seeds=False),
        "Step p50 (ms)": _metric("step_time_p50_ms", seeds=False),
        "Step p95 (ms)": _metric("step_time_p95_ms", seeds=False),
        "Waiting for data (%)": _metric("data_wait_share", decimals=1, factor=100, seeds=False),
        "Peak memory (GiB)": _metric("peak_memory_gib", seeds=False),
        "Epoch (s)": _metric("epoch_time_s", seeds=False),
        "GFLOP per image": _metric("flops_per_image", factor=1e-9, seeds=False),
        "Of matmul peak (%)": _metric("matmul_peak_share", decimals=1, factor=100, seeds=False),
    }
    notes = [
        "Completed runs only, apart by hardware; ± is half of a 95 % interval over seeds. "
        "Epoch is the last epoch's training time.",
        *_missing_notes(frames, THROUGHPUT_METRICS),
    ]
    return by_cell("Throughput", table, cells, notes, HARDWARE)


def _missing_notes(frames: Frames, metrics: Sequence[str]) -> list[str]:
    """How many runs a table of these metrics has no row for, by what became of them."""
    states = summarise(frames, [])[UNFINISHED].sum()
    missing = [f"{count} {str(state).replace('_', ' ')}" for state, count in states.items() if count]
    unmeasured = int(frames.completed[list(metrics)].isna().all(axis=1).sum())
    missing += [f"{unmeasured} completed without a measurement"] if unmeasured else []
    return [f"Runs that are not in this table: {', '.join(missing)}."] if missing else []


def common_layer_notes(frames: Frames) -> list[str]:
    """For each arch, which layers its common mean is over."""
    notes = []
    for arch, common in frames.common_layers.items():
        labels = frames.runs[(frames.runs.arch == arch) & (frames.runs.num_bn_layers > 0)]
        names = list(dict.fromkeys(labels.sort_values(["norm_rank", "norm"]).norm))
        if names and not common:
            notes.append(
                f"{arch}: {', '.join(names)} have no BN layer in common, so there is no common-layer mean."
            )
        elif len(names) > 1:
            notes.append(
                f"{arch}: common layers are the {len(common)} BN layers that {', '.join(names)} all have."
            )
        elif names:
            notes.append(
                f"{arch}: only {names[0]} was probed, so its {len(common)} BN layers are the common ones."
            )
    return notes


def _metric(
    metric: str, decimals: int | None = None, factor: float = 1.0, seeds: bool = True
) -> Callable[[pd.Series], str]:
    def text(row: pd.Series) -> str:
        expected = row.completed if seeds else row[f"{metric}_n"]
        return estimate_text(estimate_of(row, metric), int(expected), decimals, factor, say_one=seeds)

    return text


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
    cells: dict[str, Callable[[pd.Series], str]],
    notes: list[str],
    extra_keys: Sequence[str] = (),
    texts: Collection[str] = ("Runs",),
) -> Table:
    """The rows of `summarise` as text, a column for each of `cells` behind the axes; `texts` are not numbers.

    Axes that never vary go to the caption: a column of one value says nothing.
    """
    axes = [axis for axis in AXIS_HEADERS if axis in (*GROUP, *extra_keys)]
    columns = [a for a in axes if a in _ALWAYS or table[a].astype(str).nunique() > 1]
    constant = [a for a in axes if a not in columns and str(table[a].iloc[0]) not in ("", "None", "nan")]
    caption = ", ".join(
        f"{AXIS_HEADERS[a][0].lower()}{AXIS_HEADERS[a][1:]} {_axis_text(table[a].iloc[0])}" for a in constant
    )
    rows = [
        [*(_axis_text(row[a]) for a in columns), *(f(row) for f in cells.values())]
        for _, row in table.iterrows()
    ]
    blocks = (
        table[[a for a in GROUP if a not in ("norm", "batch_size_per_gpu")]].astype(str).agg("|".join, axis=1)
    )
    breaks = frozenset(i for i in range(1, len(blocks)) if blocks.iloc[i] != blocks.iloc[i - 1])
    headers = [Column(AXIS_HEADERS[a], "batch" in a or a == "world_size") for a in columns]
    headers += [Column(name, name not in texts) for name in cells]
    return Table(title, headers, rows, 0, f"All rows: {caption}." if caption else "", notes, breaks)


def _axis_text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return EMPTY
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_summary(console: Console, frames: Frames) -> None:
    """For a terminal: runs, final top-1, mean ESM σ over the common layers, and throughput."""
    table = summary_display(frames)
    print_table(
        console, table, {"Top-1, best epoch (%)", "Top-1, PreciseBN (%)", "Mean ESM μ, common layers"}
    )
    done = len(frames.completed)
    total = int(frames.runs.counted.sum())
    for note in [
        *filter(None, [table.caption]),
        *common_layer_notes(frames),
        f"{done} of {plural(total, 'run')} completed.",
    ]:
        console.print(note, style="dim", markup=False, highlight=False)


def print_table(console: Console, table: Table, left_out: Collection[str] = ()) -> None:
    """A table for a terminal, without the columns that are left out and without its caption and notes."""
    shown = [i for i, column in enumerate(table.columns) if column.header not in left_out]
    rich = RichTable(header_style="bold")
    for i in shown:
        column = table.columns[i]
        rich.add_column(column.header, justify="right" if column.numeric else "left", overflow="fold")
    for number, row in enumerate(table.rows):
        rich.add_row(*(Text(row[i]) for i in shown), end_section=number + 1 in table.breaks)
    console.print(rich)
