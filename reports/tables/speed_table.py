"""The table of speed and memory."""

from collections.abc import Sequence
from dataclasses import replace

from reports.aggregate import (
    HARDWARE,
    UNFINISHED,
    finite,
    once_for_each_hardware,
    scaling_efficiency,
    summarise,
)
from reports.frames import GROUP, Frames
from reports.numbers import count_cell, plural
from reports.tables.cell_tables import MakeCell, MetricCell, by_cell
from reports.tables.table import Table

THROUGHPUT_METRICS = [
    "images_per_s",
    "step_time_p50_ms",
    "step_time_p95_ms",
    "data_wait_share",
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
    if table.energy_j_per_image_n.any():
        cells["Energy (J per image)"] = MetricCell("energy_j_per_image", seeds=False)
    if table.scaling_efficiency_n.any():
        cells["Scaling efficiency (%)"] = MetricCell(SCALING, 1, factor=100, seeds=False, ranked=False)
    notes = [
        "Completed runs only, separately by hardware; ± is half of a 95 % interval over seeds. "
        "Epoch is the last epoch's training time.",
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
