"""The tables of speed and memory, and of what the runs cost their cluster, whatever their state."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from reports.aggregate import (
    HARDWARE,
    UNFINISHED,
    finite,
    once_for_each_hardware,
    scaling_efficiency,
    summarise,
)
from reports.frames import GROUP, Frames
from reports.numbers import EMPTY, Number, count_cell, plural, short_cell
from reports.tables.cell_tables import MakeCell, MetricCell, by_cell, runs_text
from reports.tables.table import Table

THROUGHPUT_METRICS = [
    "images_per_s",
    "step_time_p50_ms",
    "step_time_p95_ms",
    "data_wait_share",
    "communication_share",
    "peak_memory_gib",
    "epoch_time_s",
    "flops_per_image",
    "matmul_peak_share",
    "energy_j_per_image",
]
SCALING, PER_RANK = "scaling_efficiency", "images_per_s_per_rank"


def throughput_display(frames: Frames) -> Table | None:
    """Speed and memory by cell and hardware; None when no run measured any."""
    table = summarise(_on_each_hardware(frames), [*THROUGHPUT_METRICS, PER_RANK, SCALING], HARDWARE)
    table = table[table[[f"{m}_n" for m in THROUGHPUT_METRICS]].sum(axis=1) > 0].reset_index(drop=True)
    if table.empty:
        return None
    has_several = bool((table.world_size.astype(float) > 1).any())
    cells: dict[str, MakeCell] = {
        "Seeds": lambda row: count_cell(row.images_per_s_n),
        "Images/s": MetricCell("images_per_s", seeds=False),
        **({"Images/s per rank": MetricCell(PER_RANK, seeds=False, ranked=False)} if has_several else {}),
        "Step p50 (ms)": MetricCell("step_time_p50_ms", seeds=False),
        "Step p95 (ms)": MetricCell("step_time_p95_ms", seeds=False),
        "Waiting for data (%)": MetricCell("data_wait_share", decimals=1, factor=100, seeds=False),
        "Peak memory (GiB)": MetricCell("peak_memory_gib", seeds=False),
        "Epoch (s)": MetricCell("epoch_time_s", seeds=False),
        "GFLOP per image": MetricCell("flops_per_image", factor=1e-9, seeds=False),
        "Of matmul peak (%)": MetricCell("matmul_peak_share", decimals=1, factor=100, seeds=False),
    }
    if table.communication_share_n.any():
        name = "communication_share"
        cells["Exposed communication (%)"] = MetricCell(name, decimals=1, factor=100, seeds=False)
    if table.energy_j_per_image_n.any():
        cells["Energy (J per image)"] = MetricCell("energy_j_per_image", seeds=False)
    if table.scaling_efficiency_n.any():
        cells["Scaling efficiency (%)"] = MetricCell(SCALING, 1, factor=100, seeds=False, ranked=False)
    notes = [
        "Completed runs only, separately by hardware; ± is half of a 95 % interval over seeds; of two "
        "seeds both values are given. Epoch is the last epoch's training time.",
        *_missing_notes(frames, THROUGHPUT_METRICS),
    ]
    if table.scaling_efficiency_n.any():
        notes.append(
            "Scaling efficiency: images/s of a rank, a share of those at the fewest ranks of the same cell."
        )
    return by_cell("Throughput", table, cells, notes, HARDWARE)


def _on_each_hardware(frames: Frames) -> Frames:
    """The completed runs, counted once on each hardware, with their scaling efficiency."""
    of_counted = frames.runs[frames.runs.run_id.isin(frames.completed.run_id)]
    runs = once_for_each_hardware(of_counted).assign(counted=True)
    speed = finite(runs, "images_per_s").dropna(subset=HARDWARE)
    speed = speed.assign(value=speed.images_per_s / speed.world_size.astype(int))
    found = scaling_efficiency(speed, [*GROUP, "device"])
    return replace(frames, runs=runs.assign(**{PER_RANK: speed.value, SCALING: found.astype(float)}))


def _missing_notes(frames: Frames, metrics: Sequence[str]) -> list[str]:
    """How many runs a table of these metrics has no row for, by their state."""
    states = summarise(frames, [])[UNFINISHED].sum()
    missing = [f"{count} {str(state).replace('_', ' ')}" for state, count in states.items() if count]
    unmeasured = int(frames.completed[list(metrics)].isna().all(axis=1).sum())
    missing += [f"{unmeasured} completed without a measurement"] if unmeasured else []
    notes = [f"Runs that are not in this table: {', '.join(missing)}."] if missing else []
    if partly := int(frames.completed.images_per_s.isna().sum()) - unmeasured:
        notes.append(f"{plural(partly, 'completed run')} measured no images/s, which Seeds counts.")
    return notes


# Names by which GPUs are recognised in records that do not note the kind of device.
_GPU_NAMES = r"NVIDIA|Tesla|GeForce|Quadro|Instinct"
SUMS = ["gpu_h", "cpu_rank_h", "restarts", "lost_steps", "queue_wait_s"]


def cost_display(frames: Frames) -> Table | None:
    """Rank-hours, restarts, lost steps and waits by cell; None when the runs cost nothing."""
    frames = _with_hours(frames)
    table = summarise(frames, [], sums=SUMS)
    total = table[SUMS].sum()
    if not total.any():
        return None
    hours = {"gpu_h": "GPU-hours", "cpu_rank_h": "Rank-hours" if not total.gpu_h else "Rank-hours, CPU"}
    shown = {name: title for name, title in hours.items() if total[name]}
    cells: dict[str, MakeCell] = {"Runs": runs_text}
    cells |= {title: _sum(name) for name, title in shown.items()}
    cells |= {"Restarts": _sum("restarts"), "Steps lost": _sum("lost_steps")}
    wait_title, wait_s = _wait_unit(float(table.queue_wait_s.max()))
    if total.queue_wait_s:
        cells[wait_title] = _sum("queue_wait_s", wait_s)
    together = [f"{title} {_amount(total[name])}" for name, title in shown.items()]
    together += [f"restarts {_amount(total.restarts)}", f"steps lost {_amount(total.lost_steps)}"]
    notes = [
        "Sums over all runs of a cell and all their attempts, failed and cancelled ones too. An hour is "
        "counted once for each rank, from the start of an attempt to its last record.",
        f"All cells together: {', '.join(together)}.",
    ]
    if total.queue_wait_s:
        notes.append("A wait in the queue counts once it has ended with a start.")
    return by_cell("Cost", table, cells, notes)


def _with_hours(frames: Frames) -> Frames:
    """The runs with their rank-hours under the kind of their device."""
    runs = frames.runs
    named = runs.device.astype(str).str.contains(_GPU_NAMES, regex=True)
    is_gpu = (runs.device_type == "cuda") | (runs.device_type.isna() & named)
    hours = runs.rank_s / 3600
    return replace(
        frames, runs=runs.assign(gpu_h=hours.where(is_gpu, 0.0), cpu_rank_h=hours.where(~is_gpu, 0.0))
    )


def _wait_unit(longest_s: float) -> tuple[str, float]:
    """One unit for the whole column, and its seconds."""
    if longest_s < 5400:
        return "Waited in queue (min)", 60.0
    return "Waited in queue (h)", 3600.0


def _sum(name: str, unit: float = 1.0) -> MakeCell:
    return lambda row: EMPTY if pd.isna(row[name]) else _amount(row[name] / unit)


def _amount(value: float) -> Number | str:
    """Counts in full; hours and minutes with three significant digits."""
    return Number(int(value)) if float(value).is_integer() else short_cell(float(value))
