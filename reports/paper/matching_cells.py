"""The paper beside ours: its numbers, with their labels, next to those that our runs measured alike.

Alike means the same quantity on the same network and data by the same recipe; anything else is not shown.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from reports.aggregate import summarise
from reports.frames import BEST_TOP1, GROUP, Frames
from reports.paper.published import Series, load_paper
from suite.experiment import BatchNormSpec, DataSpec, ModelSpec, RecipeSpec, Run, XbnSpec
from suite.files import read_json
from suite.paths import RunPaths
from suite.specs.data import WHERE

TOP1 = "top1_percent"
# A statistic of the released training saw half of the 256 images of a step: two GPUs, and no SyncBN.
GLOBAL_BATCH, NORM_BATCH = 256, 128
EPOCHS = range(90, 101)
# The norm that a series is of, as our runs are labelled.
NORMS = {
    "noise/bn": BatchNormSpec().label,
    "noise/xbn-gn": XbnSpec(kind="xbn", position="p2", bfn="gn", num_groups=64, stem=True).label,
    "noise/xbn-in": XbnSpec(kind="xbn", position="p2", bfn="in", stem=True).label,
}
# Fields that decide how a machine trains, and not what it learns.
_FREE = {"recipe": {"epochs", "precision", "channels_last", "compile"}, "data": {*WHERE, "loader"}}


def paper_cells(frames: Frames) -> pd.DataFrame:
    """The cells with a run that was trained as the paper's were, of norms of which one completed.

    The columns of `summarise` for TOP1 and BEST_TOP1; `series`, the id of the paper's; `paper`, its top-1
    without noise on the estimates; `label` and `tolerance` of that.
    """
    found = [(series, _alike(frames, series)) for series in load_paper().of("noise")]
    tables = [
        summarise(replace(frames, runs=runs), [TOP1, BEST_TOP1]).assign(
            series=series.id, paper=series.values[0], label=series.label, tolerance=series.tolerance
        )
        for series, runs in found
        if not runs.empty
    ]
    is_known = any(table.completed.any() for table in tables)
    return pd.concat(tables, ignore_index=True) if is_known else pd.DataFrame()


def _alike(frames: Frames, series: Series) -> pd.DataFrame:
    """The counted runs that were trained as those of the series were, whatever their state."""
    runs = frames.counted
    chosen = runs[
        (runs.arch == series.network)
        & (runs.data == series.data)
        & (runs.norm == NORMS[series.id])
        & (runs.global_batch_size == GLOBAL_BATCH)
        & (runs.norm_batch_size == NORM_BATCH)
        & runs.epochs.isin(EPOCHS)
    ]
    # Runs of one cell differ in nothing that decides a result but the seed, so one of them stands for all.
    first = chosen.drop_duplicates(GROUP)
    same = first.loc[[has_papers_recipe(Path(folder)) for folder in first.folder]]
    return chosen.merge(same[GROUP], on=GROUP)


def has_papers_recipe(folder: Path) -> bool:
    """Whether the run in this folder follows the paper's recipe on all of its data.

    The defaults of the recipe and of the data are the paper's (suite.specs).
    """
    config = read_json(RunPaths(folder).run)
    if not isinstance(config, dict):
        return False
    run = Run.model_validate({name: config[name] for name in Run.model_fields if name in config})
    expected = {"recipe": RecipeSpec(), "data": DataSpec(name=run.data.name, path="/")}
    return run.model.bn_momentum == ModelSpec(arch=run.model.arch).bn_momentum and all(
        getattr(run, part).model_dump(exclude=_FREE[part]) == spec.model_dump(exclude=_FREE[part])
        for part, spec in expected.items()
    )
