"""The table of what the runs cost their cluster, whatever their state."""

from dataclasses import replace

import pandas as pd

from reports.aggregate import summarise
from reports.frames import Frames
from reports.numbers import EMPTY, Number, short_cell
from reports.tables.cell_tables import MakeCell, by_cell, runs_text
from reports.tables.table import Table

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
