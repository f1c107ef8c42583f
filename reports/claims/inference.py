"""Claim A: the estimates are wrong on the very images that the network trains on.

Of each run, in percent of its training images:

- the lowest error in inference mode at epochs 1 to 10 is above 85 %: the network guesses;
- the lowest training error at epochs 1 to 10 is below 60 %: it has learnt all the same;
- at the last epoch, both errors are below 25 %: the estimates have caught up.

The training error at an epoch is measured with the weights before its step, and in inference mode with those
after it. Both are of the same images.
"""

import math
from collections.abc import Iterator

import pandas as pd

from reports.claims.check import Check, PaperNumber
from reports.frames import Frames
from reports.paper.numbers import Series, load_paper

EARLY_EPOCHS = 10
GUESSING_PERCENT, LEARNING_PERCENT, LEARNT_PERCENT = 85.0, 60.0, 25.0
# Of the paper's points, the one nearest to EARLY_EPOCHS, and its last.
_PAPERS_EARLY, _PAPERS_LAST = 11, 41


def errors(frames: Frames) -> pd.DataFrame:
    """Error on the training images of completed runs: run, epoch, series (see `chosen`), value."""
    curves = frames.curves[frames.curves.run.isin(frames.completed.run)]
    is_training = (curves.metric == "top1_percent") & (curves.split == "train")
    chosen = {"Training": is_training, "Inference mode": curves.metric == "top1_inference_percent"}
    return pd.concat(
        curves.loc[keep, ["run", "epoch"]].assign(series=name, value=100 - curves.value[keep])
        for name, keep in chosen.items()
    )


def checks(frames: Frames) -> Iterator[Check]:
    found = errors(frames)
    inference, training = (found[found.series == name] for name in ("Inference mode", "Training"))
    in_mode, of_training = (load_paper()[f"inaccurate-estimates/{name}"] for name in ("inference", "train"))
    early = f"lowest at epochs 1 to {EARLY_EPOCHS}"
    yield Check(
        f"error in inference mode, {early}",
        "%",
        _by_run(frames, inference, early=True),
        "above",
        GUESSING_PERCENT,
        1,
        _paper(in_mode, _PAPERS_EARLY),
    )
    yield Check(
        f"training error, {early}",
        "%",
        _by_run(frames, training, early=True),
        "below",
        LEARNING_PERCENT,
        1,
        _paper(of_training, _PAPERS_EARLY),
    )
    for name, values, series in (
        ("error in inference mode", inference, in_mode),
        ("training error", training, of_training),
    ):
        yield Check(
            f"{name}, last epoch",
            "%",
            _by_run(frames, values, early=False),
            "below",
            LEARNT_PERCENT,
            1,
            _paper(series, _PAPERS_LAST),
        )


def _paper(series: Series, epoch: int) -> PaperNumber:
    return PaperNumber(series.values[epoch], series.tolerance, series.label, f"epoch {epoch}")


def _by_run(frames: Frames, values: pd.DataFrame, early: bool) -> tuple[float, ...]:
    """The lowest of the early epochs, or that of the run's last epoch, by run; NaN: not measured."""
    if early:
        found = values[values.epoch <= EARLY_EPOCHS].groupby("run").value.min()
    else:
        last = values.epoch == values.run.map(frames.runs.set_index("run").epochs)
        found = values[last].set_index("run").value
    return tuple(float(found.get(run, math.nan)) for run in frames.completed.run)
