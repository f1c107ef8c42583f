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
from functools import partial

import pandas as pd

from reports.claims.check import Measured, PaperNumber, Rule
from reports.frames import Frames
from reports.paper.published import load_paper

EARLY_EPOCHS = 10
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


def _lowest_early(name: str, series: str, frames: Frames) -> Iterator[Measured]:
    """The lowest error of the early epochs, by run."""
    values = errors(frames)
    values = values[(values.series == name) & (values.epoch <= EARLY_EPOCHS)]
    yield Measured(_by_run(frames, values.groupby("run").value.min()), paper=_paper(series, _PAPERS_EARLY))


def _last(name: str, series: str, frames: Frames) -> Iterator[Measured]:
    """The error of the run's last epoch, by run."""
    values = errors(frames)
    is_last = values.epoch == values.run.map(frames.runs.set_index("run").epochs)
    last = values[(values.series == name) & is_last].set_index("run").value
    yield Measured(_by_run(frames, last), paper=_paper(series, _PAPERS_LAST))


def _by_run(frames: Frames, values: pd.Series) -> tuple[float, ...]:
    """Of each completed run; NaN: not measured."""
    return tuple(float(values.get(run, math.nan)) for run in frames.completed.run)


def _paper(series_id: str, epoch: int) -> PaperNumber:
    series = load_paper()[f"inaccurate-estimates/{series_id}"]
    return PaperNumber(series.values[epoch], series.tolerance, series.label, f"epoch {epoch}")


_EARLY = f"lowest at epochs 1 to {EARLY_EPOCHS}"
_IN_MODE, _OF_TRAINING = ("Inference mode", "inference"), ("Training", "train")
RULES = (
    (
        Rule(f"error in inference mode, {_EARLY}", "%", 1, partial(_lowest_early, *_IN_MODE), "above", 85),
        Rule(f"training error, {_EARLY}", "%", 1, partial(_lowest_early, *_OF_TRAINING), "below", 60),
        Rule("error in inference mode, last epoch", "%", 1, partial(_last, *_IN_MODE), "below", 25),
        Rule("training error, last epoch", "%", 1, partial(_last, *_OF_TRAINING), "below", 25),
    ),
)
