"""Claim A: the estimates are wrong on the very images that the network trains on.

The *gap* of a run at an epoch is its error in inference mode less its training error, in percentage points:
of the same weights, on the same images. With full-batch gradient descent the training error that is recorded
at the next epoch is that of the weights after this one, since it is measured before the step.
"""

import math
from collections.abc import Iterator

import pandas as pd

from reports.claims.check import Measured, PaperNumber
from reports.frames import Frames
from reports.paper.published import load_paper

# Of the paper's points, the one nearest to epoch 10.
_PAPERS_EPOCH = 11
TRAINING, INFERENCE, CORRECTED = "Training", "Inference mode", "Bias-corrected estimates"


def errors(frames: Frames) -> pd.DataFrame:
    """Error on the training images of completed runs: run, epoch, series, value (%)."""
    curves = frames.curves[frames.curves.run.isin(frames.completed.run)]
    chosen = {
        TRAINING: (curves.metric == "top1_percent") & (curves.split == "train"),
        INFERENCE: curves.metric == "top1_inference_percent",
        CORRECTED: curves.metric == "top1_bias_corrected_percent",
    }
    return pd.concat(
        curves.loc[keep, ["run", "epoch"]].assign(series=name, value=100 - curves.value[keep])
        for name, keep in chosen.items()
    )


def inference_gap(frames: Frames, epoch: int) -> Iterator[Measured]:
    """The gap at an epoch, by run."""
    yield Measured(_gap(frames, epoch, INFERENCE), {"epoch": epoch}, _paper())


def bias_corrected_gap(frames: Frames, epoch: int) -> Iterator[Measured]:
    """The gap that is left with estimates without their first values, 0 and 1."""
    yield Measured(_gap(frames, epoch, CORRECTED), {"epoch": epoch})


def _gap(frames: Frames, epoch: int, series: str) -> tuple[float, ...]:
    """By completed run; NaN: not measured."""
    values = errors(frames).set_index(["run", "series", "epoch"]).value
    return tuple(
        float(values.get((run, series, epoch), math.nan) - values.get((run, TRAINING, epoch + 1), math.nan))
        for run in frames.completed.run
    )


def _paper() -> PaperNumber:
    inference, training = (load_paper()[f"inaccurate-estimates/{name}"] for name in ("inference", "train"))
    gap = inference.values[_PAPERS_EPOCH] - training.values[_PAPERS_EPOCH]
    tolerance = inference.tolerance + training.tolerance
    return PaperNumber(gap, tolerance, inference.label, f"epoch {_PAPERS_EPOCH}")
