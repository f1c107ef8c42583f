"""Shows runs on a terminal: a table of many runs, or all details of one."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.cluster.backend import RunStatus
from jobs.cluster.overview import log_files
from suite.specs.task_table import ACCURACIES, accuracy_in

# Runs that need attention come first.
STYLES = {
    "failed": "red",
    "diverged": "red",
    "cancelled": "yellow",
    "preempted": "yellow",
    "running": "cyan",
    "queued": "dim",
    "stopped": "blue",
    "completed": "green",
}
ORDER = tuple(STYLES)
GAP = 2  # between two columns
LEAST_NAME = 12
MAX_WAITING_REASONS = 5


def table(runs: Sequence[RunStatus], notes: Sequence[str], limit: int | None, width: int) -> RenderableType:
    """Return counts by state, a row for each run, and the reasons.

    Shows at most `limit` rows, starting with the runs that need attention, in `width` characters. A column
    without an entry is left out.
    """
    ordered = sorted(runs, key=lambda run: ORDER.index(run.state))
    shown = ordered[:limit]
    rows = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    cells = {header: [form(run) for run in shown] for header, form in COLUMNS.items()}
    filled = {header: column for header, column in cells.items() if any(column)}
    widths = {header: max(map(len, [header, *column])) for header, column in filled.items()}
    # A narrow terminal shortens the names, because the ids identify the runs too.
    room = width - sum(widths.values()) + widths.get("run", 0) - GAP * (len(widths) - 1)
    for header in filled:
        justify: Literal["left", "right"] = "right" if header in NUMBERS else "left"
        wanted = min(widths[header], max(LEAST_NAME, room)) if header == "run" else widths[header]
        rows.add_column(header, justify=justify, no_wrap=True, overflow="ellipsis", width=wanted)
    for number, run in enumerate(shown):
        row = {header: Text(column[number]) for header, column in filled.items()}
        row["state"].stylize(STYLES[run.state])
        rows.add_row(*row.values())
    total = Text(f"{len(runs)} run{'s'[: len(runs) != 1]}" + (": " if runs else ""))
    parts: list[RenderableType] = [total.append(_counts(runs))]
    parts += [rows] if shown else []
    if len(shown) < len(runs):
        parts.append(Text("and ").append(_counts(ordered[len(shown) :])).append("; --all shows them", "dim"))
    reasons = [run for run in shown if run.reason and run.state not in ("completed", "queued")]
    parts += [Text(f"{run.run_id[:8]}  ", STYLES[run.state]).append(run.reason, "default") for run in reasons]
    # Up to the first semicolon is the scheduler's reason; the rest differs from run to run.
    waiting = Counter(run.reason.partition(";")[0] for run in runs if run.reason and run.state == "queued")
    parts += [
        Text(f"{count} queued  ", STYLES["queued"]).append(why, "default")
        for why, count in waiting.most_common(MAX_WAITING_REASONS)
    ]
    parts += [Text(note, "yellow") for note in notes]
    return Group(*parts)


def _counts(runs: Sequence[RunStatus]) -> Text:
    counts = Counter[str](run.state for run in runs)
    return Text(", ").join(Text(f"{counts[one]} {one}", STYLES[one]) for one in ORDER if counts[one])


def _epoch(run: RunStatus) -> str:
    epoch = run.content.get("evaluated_epoch", run.content.get("epoch"))
    return "" if epoch is None else f"{epoch}/{run.epochs or '?'}"


def _number(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)


COLUMNS: dict[str, Callable[[RunStatus], str]] = {
    "run": lambda run: run.label,
    "id": lambda run: run.run_id[:8],
    "state": lambda run: run.state,
    "epoch": _epoch,
    "acc.": lambda run: accuracy_in(run.content).partition(" ")[2],
    "img/s": lambda run: _number(run.content.get("images_per_s"), "{:,.0f}"),
    "left": lambda run: "" if run.eta_s is None else duration(run.eta_s),
    "node": lambda run: run.node,
    "restarts": lambda run: str(run.restarts or ""),
    "job": lambda run: run.job or "",
}
NUMBERS = ("epoch", "acc.", "img/s", "left", "restarts")


def details(run: RunStatus, notes: Sequence[str]) -> RenderableType:
    """Return all details of one run."""
    content, cells = run.content, {header: form(run) for header, form in COLUMNS.items()}
    step, total = content.get("step"), content.get("total_steps")
    rows = Table(box=None, show_header=False, pad_edge=False)
    lines = {
        "run": f"{run.label}  ({run.run_id})",
        "state": run.state,
        "reason": run.reason,
        "progress": "" if step is None else f"step {step}" + (f" of {total}" if total else ""),
        "accuracy": accuracy_in(content, 2),
        "images/s": cells["img/s"],
        "time left": cells["left"],
        "job": cells["job"],
        "cluster": run.cluster,
        "node": run.node,
        "attempts": str(content.get("attempts", 0)),
        "lost steps": str(content.get("lost_steps", 0)),
        "waited in queue": duration(content.get("queue_wait_s", 0.0)),
        "folder": str(run.folder),
        "logs": "\n".join(str(path) for path in log_files(run, rank=0)),
    }
    for name, value in ((name, value) for name, value in lines.items() if value):
        rows.add_row(Text(name, "dim"), Text(value, STYLES.get(value, "") if name == "state" else ""))
    errors = [
        Text(f"\nrank {error.rank} on {error.host}", "red").append(f"\n{error.traceback}", "default")
        for error in run.errors
    ]
    return Group(rows, *errors, *(Text(note, "yellow") for note in notes))


def duration(seconds: float) -> str:
    """Format seconds as `42 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def as_plain(run: RunStatus) -> dict[str, Any]:
    """Return a run as the JSON object of `status --json`."""
    seen = ("state", "reason", "job", "cluster", "node", "restarts", "eta_s")
    recorded = ("step", "total_steps", "evaluated_epoch", *ACCURACIES, "images_per_s", "lost_steps")
    return {
        "run_id": run.run_id,
        "folder": str(run.folder),
        **{name: getattr(run, name) for name in seen},
        "queue_wait_s": run.content.get("queue_wait_s", 0.0),
        **{name: run.content.get(name) for name in recorded},
    }
