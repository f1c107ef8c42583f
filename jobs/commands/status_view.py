"""Shows runs on a terminal: a table of many runs, or all details of one."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.cluster.backend import RunStatus
from jobs.cluster.overview import log_files
from jobs.local.progress import duration
from suite.record.hang import Hang
from suite.specs.task_table import ACCURACIES, accuracy_in

# Runs that need attention come first.
STYLES = {
    "failed": "red",
    "diverged": "red",
    "cancelled": "yellow",
    "preempted": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
    "starting": "cyan",
    "queued": "dim",
    "planned": "dim",
    "stopped": "blue",
    "completed": "green",
}
ORDER = tuple(STYLES)
GAP = 2  # between two columns
LEAST_NAME = 16
MAX_WAITING_REASONS = 5
MAX_STACKS = 3  # of ranks that hang
QUIET = ("completed", "queued", "planned", "starting")  # states whose reason is not shown below the table


def table(runs: Sequence[RunStatus], notes: Sequence[str], limit: int | None, width: int) -> RenderableType:
    """Return counts by state, a row for each run, and the reasons.

    Shows at most `limit` rows, starting with the runs that need attention, in `width` characters. A column
    without an entry is left out.
    """
    ordered = sorted(runs, key=lambda run: ORDER.index(run.state))
    shown = ordered[:limit]
    cells = {header: [form(run) for run in shown] for header, form in COLUMNS.items()}
    filled = {header: column for header, column in cells.items() if any(column)}
    filled, same, widths = _fitted(filled, width)
    rows = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for header in filled:
        justify: Literal["left", "right"] = "right" if header in NUMBERS else "left"
        rows.add_column(header, justify=justify, overflow="fold", width=widths[header])
    for number, run in enumerate(shown):
        row = {header: Text(column[number]) for header, column in filled.items()}
        row["state"].stylize(STYLES[run.state])
        rows.add_row(*row.values())
    total = Text(f"{len(runs)} run{'s'[: len(runs) != 1]}" + (": " if runs else ""))
    parts: list[RenderableType] = [total.append(_counts(runs))]
    parts += [Text(f"{header} {value}", "dim") for header, value in same.items()]
    parts += [rows] if shown else []
    if len(shown) < len(runs):
        parts.append(Text("and ").append(_counts(ordered[len(shown) :])).append("; --all shows them", "dim"))
    called = filled.get("id", filled.get("run", []))
    parts += [
        Text(f"{name}  ", STYLES[run.state]).append(run.reason, "default")
        for name, run in zip(called, shown, strict=False)
        if run.reason and run.state not in QUIET
    ]
    # Up to the first semicolon is the scheduler's reason; the rest differs from run to run.
    waiting = Counter(run.reason.partition(";")[0] for run in runs if run.reason and run.state == "queued")
    parts += [
        Text(f"{count} queued  ", STYLES["queued"]).append(why, "default")
        for why, count in waiting.most_common(MAX_WAITING_REASONS)
    ]
    parts += [Text(note, "yellow") for note in notes]
    return Group(*parts)


def _fitted(
    columns: dict[str, list[str]], width: int
) -> tuple[dict[str, list[str]], dict[str, str], dict[str, int]]:
    """Return columns that fit into `width` characters, what is said of all rows instead, and their widths.

    First the beginning that all names share is left out, then columns with one value, then the ids if the
    names tell the runs apart. Names that still do not fit are folded: nothing that differs is cut.
    """
    same: dict[str, str] = {}

    def widths() -> dict[str, int]:
        return {header: max(map(len, [header, *column])) for header, column in columns.items()}

    def is_too_wide() -> bool:
        return sum(widths().values()) + GAP * (len(columns) - 1) > width

    names = columns.get("run", [])
    if is_too_wide() and (shared := _shared_beginning(names)):
        columns = {**columns, "run": [f"…{name.removeprefix(shared)}" for name in names]}
        same["every name begins with"] = shared
    for header in ("node", "epoch", "job"):
        column = columns.get(header, [])
        if is_too_wide() and len(column) > 1 and len(set(column)) == 1:
            same[header] = column[0]
            columns = {name: entries for name, entries in columns.items() if name != header}
    if is_too_wide() and len(set(names)) == len(names):
        columns = {name: entries for name, entries in columns.items() if name != "id"}
    found = widths()
    if "run" in found:
        rest = sum(found.values()) - found["run"] + GAP * (len(columns) - 1)
        found["run"] = min(found["run"], max(LEAST_NAME, width - rest))
    return columns, same, found


def _shared_beginning(names: Sequence[str]) -> str:
    """Return the parts between dashes with which all of several names begin, and go on."""
    parts = [name.split("-")[:-1] for name in names]
    equal = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return "".join(f"{column[0]}-" for column in equal) if len(names) > 1 else ""


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
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")  # a path is copied from here
    lines = {
        "run": f"{run.label}  ({run.run_id})",
        "state": run.state,
        "reason": run.reason,
        "progress": "" if step is None else f"step {step}" + (f" of {total}" if total else ""),
        "phase": content.get("phase", "") if run.state == "running" else "",
        "loss": _number(content.get("loss"), "{:.4g}"),
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
    waits = [] if run.hang is None else _of_ranks_that_waited(run.hang)
    return Group(rows, *errors, *waits, *(Text(note, "yellow") for note in notes))


def _of_ranks_that_waited(hang: Hang) -> list[Text]:
    """Return where each rank was, and the stacks of those for which the others waited and of one other."""
    places: dict[str, list[int]] = {}
    for rank, stall in sorted(hang.stalls.items()):
        places.setdefault(stall.place, []).append(rank)
    lines = [Text(f"\n{place}: {hang.named(ranks)}") for place, ranks in places.items()]
    lagging = [rank for rank in hang.lagging if rank in hang.stalls]
    waiting = [rank for rank in hang.stalls if rank not in lagging]
    for rank in (*lagging[:MAX_STACKS], *waiting[:1]):
        stall = hang.stalls[rank]
        title = f"\n{hang.named([rank])} has not gone on for {stall.stalled_s:.0f} s"
        lines.append(Text(title, "red" if rank in lagging else "").append(f"\n{stall.stack}", "default"))
    return lines


def as_plain(run: RunStatus) -> dict[str, Any]:
    """Return a run as the JSON object of `status --json`."""
    seen = ("state", "reason", "job", "cluster", "node", "restarts", "eta_s")
    recorded = ("phase", "step", "total_steps", "loss", "evaluated_epoch", *ACCURACIES)
    recorded += ("images_per_s", "lost_steps")
    return {
        "run_id": run.run_id,
        "name": run.label,
        "folder": str(run.folder),
        **{name: getattr(run, name) for name in seen},
        "queue_wait_s": run.content.get("queue_wait_s", 0.0),
        **{name: run.content.get(name) for name in recorded},
    }
