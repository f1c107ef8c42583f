"""A study's answers: curves over the norm batch, where they cross, what it cost and what stopping saved."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from reports.aggregate import summarise
from reports.collect import Collection, Skipped, collect_folders
from reports.findings.baseline import against_baseline
from reports.findings.norm_batch import NormBatchAnswer, norm_batch_answers
from reports.frames import BN, Frames, build_frames
from reports.sentences import sentence
from reports.tables.cell_tables import print_summary
from reports.write.export import results, to_csv, to_parquet
from suite.errors import UserError
from suite.files import write_atomically
from suite.metrics import SHIFT_MU, SHIFT_SIGMA
from suite.record import STATES

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StudyAnswers:
    """What a study's records say. `curves`: a row for each variant and norm batch, intervals over seeds."""

    states: dict[str, int]
    curves: pd.DataFrame
    norm_batch: list[NormBatchAnswer]
    rank_h: float
    read_rank_h: float
    saved_rank_h: float
    saved_epochs: int
    trained_epochs: int
    on_gpus: bool
    frames: Frames
    skipped: list[Skipped]


def study_answers(
    collection: Collection, study: str, metrics: Sequence[str], margin_points: float
) -> StudyAnswers:
    """`study`: whose name its own runs have; what others ran was only read. `margin_points`: of top-1.

    Saved are the epochs that stopped runs did not train, each as long as the run's last epoch of training.
    """
    frames = build_frames(collection)
    runs = frames.counted
    columns = [name if name in runs else f"{name}_common" for name in metrics]
    shown = dict.fromkeys([*columns, "top1_percent", f"{SHIFT_SIGMA}_common", f"{SHIFT_MU}_common"])
    stopped = runs[runs.state == "stopped"]
    left = (stopped.epochs - stopped.epoch).clip(lower=0)
    pace_s = stopped.epoch_time_s * stopped.world_size.astype(float)
    is_own = runs.experiment == study
    return StudyAnswers(
        states={state: int((runs.state == state).sum()) for state in STATES if (runs.state == state).any()},
        curves=summarise(frames, list(shown)),
        norm_batch=norm_batch_answers(frames, against_baseline(frames, BN), margin_points),
        rank_h=float(runs.rank_s[is_own].sum()) / 3600,
        read_rank_h=float(runs.rank_s[~is_own].sum()) / 3600,
        saved_rank_h=float((left * pace_s).sum()) / 3600,
        saved_epochs=int(left.sum()),
        trained_epochs=int(runs.epoch.sum()),
        on_gpus=bool((runs.device_type == "cuda").any()),
        frames=frames,
        skipped=collection.skipped,
    )


def write_study(
    folders: Sequence[Path],
    into: Path,
    study: str,
    metrics: Sequence[str],
    margin_points: float,
    cache: Path | None = None,
) -> StudyAnswers:
    """Read the runs of a study, and write `results.*` (a row a run) and `answers.json` into a folder.

    A run that cannot be read is in neither. `cache`: see reports.collect. Raises UserError when none
    can be, or the files not be written.
    """
    begun = [folder for folder in folders if (folder / "run.json").exists()]
    if not begun:
        raise UserError(f"{into}: no trial of this study has begun")
    answers = study_answers(collect_folders(begun, cache), study, metrics, margin_points)
    table = results(answers.frames, into)
    try:
        write_atomically(into / "results.parquet", to_parquet(table))
        write_atomically(into / "results.csv", to_csv(table))
        write_atomically(into / "answers.json", json.dumps(as_plain(answers), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{into}: the answers cannot be written: {error.strerror}") from None
    return answers


def as_plain(answers: StudyAnswers) -> dict[str, Any]:
    """Return the answers for JSON."""
    rows = json.loads(answers.curves.to_json(orient="records"))
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": answers.states,
        "norm_batch": [asdict(answer) for answer in answers.norm_batch],
        "cost": {
            "rank_hours": answers.rank_h,
            "rank_hours_of_runs_that_others_trained": answers.read_rank_h,
            "on_gpus": answers.on_gpus,
            "epochs_trained": answers.trained_epochs,
            "epochs_saved_by_stopping": answers.saved_epochs,
            "rank_hours_saved_by_stopping": answers.saved_rank_h,
        },
        "curves": rows,
    }


def print_study(console: Console, answers: StudyAnswers) -> None:
    """The table of cells, the answers in sentences, and what is in neither."""
    print_summary(console, answers.frames)
    for run in answers.skipped:
        console.print(f"not read: {run.folder}: {run.reason}", markup=False)
    for answer in answers.norm_batch:
        console.print(answer.sentence, markup=False)
    console.print(cost_sentence(answers), markup=False)


def cost_sentence(answers: StudyAnswers) -> str:
    """`3.20 GPU-hours; 14 runs stopped early, which saved 61 of 144 epochs (1.40 GPU-hours).`

    On CPUs `1.81 minutes of CPU ranks; the reused runs had taken 2.02.`
    """
    unit, factor = ("GPU-hours", 1) if answers.on_gpus else ("minutes of CPU ranks", 60)
    return sentence(
        "study_cost",
        taken=factor * answers.rank_h,
        unit=unit,
        stopped=answers.states.get("stopped", 0),
        saved_epochs=answers.saved_epochs,
        total_epochs=answers.trained_epochs + answers.saved_epochs,
        saved=factor * answers.saved_rank_h if math.isfinite(answers.saved_rank_h) else None,
        reused=factor * answers.read_rank_h,
    )
