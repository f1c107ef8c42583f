"""The accuracy by which runs are compared: top-1 of classifiers, AP of detectors, by the table of tasks."""

import pandas as pd

from suite.metrics import METRICS
from suite.specs.task_table import TASKS

# The column of `Frames.runs` that holds it, in percent.
ACCURACY = "accuracy_percent"
DIRECTION = METRICS[next(iter(TASKS.values())).metric].direction


def accuracy_of(runs: pd.DataFrame) -> pd.Series:
    """Return each run's value of its task's metric."""
    values = pd.Series(float("nan"), index=runs.index, dtype="float64")
    for kind, entry in TASKS.items():
        values = values.where(runs.task != kind, runs[entry.metric])
    return values


def accuracy_name(runs: pd.DataFrame) -> str:
    """Return what it is called in a sentence: "top-1" or "AP"; "accuracy" for runs of several tasks."""
    titles = {TASKS[kind].title for kind in runs.task.unique()}
    return titles.pop() if len(titles) == 1 else "accuracy" if titles else TASKS["classification"].title


def accuracy_title(runs: pd.DataFrame) -> str:
    """Return the same as it begins a heading."""
    name = accuracy_name(runs)
    return name[0].upper() + name[1:]


def accuracy_metrics(runs: pd.DataFrame) -> list[str]:
    """Return the metrics of the tasks that these runs have."""
    return [entry.metric for kind, entry in TASKS.items() if (runs.task == kind).any()]
