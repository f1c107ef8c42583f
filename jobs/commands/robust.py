"""`shiftbench robust`: what distribution shifts cost trained networks, and what helps at test time."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer import Option

from jobs.commands.probe_options import (
    ALPHA,
    ARCH,
    AS_JSON,
    CHECKPOINT,
    DATA,
    IMAGE_SIZE,
    MEAN,
    MODEL,
    NORM,
    NUM_CLASSES,
    SOUP,
    STD,
    WEIGHTS,
    Weights,
)
from suite.errors import UserError
from suite.specs.robustness import Order, RobustnessPlan
from suite.specs.test_time_table import FROZEN, METHODS

if TYPE_CHECKING:
    from suite.experiment import Run

CONFIG = typer.Argument(help="Experiment YAML whose runs are measured; none with --checkpoint or --model.")
OVERRIDES = typer.Argument(help="`key=value` overrides of it.", show_default=False)
CORRUPTIONS = Option(
    help="Names, families (noise, blur, weather, digital), common (the 15 of mCE) or all, with commas; none."
)
SEVERITIES = Option(help="Severities of the corruptions, 1 to 5, with commas.")
SHIFT = Option(
    help="NAME=FOLDER of labelled images: imagenet-c, -r, -a, -v2, -sketch, or another name. Repeatable.",
    show_default=False,
)
IMAGES = Option(min=1, help="Images of each shift, evenly spaced over the classes; default: all.")
PARTS = Option("--parts", help="Split each shift's ESM into own and inherited parts. Three times the passes.")
TEST_TIME = Option(help="Statistics at test time: all, none, or names with commas.")
BATCHES = Option(help="Images per batch of a test-time stream, with commas.")
ORDERS = Option(help="Orders of a test-time stream, with commas: mixed, by_label.")
OUTPUT_DIR = Option(help="Folder of the runs' folders.")
JOBS = Option(min=1, help="Runs that are measured at the same time.")


def robust(
    config: Annotated[Path | None, CONFIG] = None,
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    corruptions: Annotated[str, CORRUPTIONS] = "common",
    severities: Annotated[str, SEVERITIES] = "1,2,3,4,5",
    shift: Annotated[list[str] | None, SHIFT] = None,
    max_images: Annotated[int | None, IMAGES] = None,
    parts: Annotated[bool, PARTS] = False,
    methods: Annotated[str, TEST_TIME] = "none",
    images_per_batch: Annotated[str, BATCHES] = "64",
    orders: Annotated[str, ORDERS] = "mixed",
    output_dir: Annotated[Path, OUTPUT_DIR] = Path("runs"),
    jobs: Annotated[int, JOBS] = 1,
    checkpoint: Annotated[Path | None, CHECKPOINT] = None,
    soup: Annotated[list[Path] | None, SOUP] = None,
    alpha: Annotated[float | None, ALPHA] = None,
    weights: Annotated[Weights | None, WEIGHTS] = None,
    model: Annotated[str | None, MODEL] = None,
    arch: Annotated[str | None, ARCH] = None,
    norm: Annotated[str | None, NORM] = None,
    data: Annotated[str | None, DATA] = None,
    image_size: Annotated[int | None, IMAGE_SIZE] = None,
    mean: Annotated[tuple[float, float, float] | None, MEAN] = None,
    std: Annotated[tuple[float, float, float] | None, STD] = None,
    num_classes: Annotated[int | None, NUM_CLASSES] = None,
    as_json: Annotated[bool, AS_JSON] = False,
) -> None:
    """Measure what distribution shifts cost: accuracy, and the estimation shift under each.

    Of an experiment, all completed runs are measured into their folders; `shiftbench report` then has a
    section on robustness. What was measured before is kept. Of a checkpoint or another network, the results
    are printed.
    """
    plan = _plan(severities, shift or [], max_images, parts, methods, images_per_batch, orders)
    network: dict[str, Any] = {"checkpoint": checkpoint, "weights": weights, "model": model, "arch": arch}
    network |= {
        "norm": norm,
        "data": data,
        "image_size": image_size,
        "mean": mean,
        "std": std,
        "num_classes": num_classes,
    }
    network |= {"soup": soup, "alpha": alpha}
    given = [name for name, value in network.items() if value is not None]
    if config is not None:
        if given or as_json:
            option = f"--{(given or ['json'])[0].replace('_', '-')}"
            raise UserError(f"robust: {option} is for a single network; leave it out, or the experiment")
        _measure_runs(config, overrides or [], plan, corruptions, output_dir, jobs)
        return
    if not given:
        raise UserError("robust: give an experiment's YAML, --checkpoint, or --model and --data")
    _measure_network({**network, "soup": soup or ()}, plan, corruptions, as_json)


def _plan(
    severities: str,
    shifts: Sequence[str],
    max_images: int | None,
    parts: bool,
    methods: str,
    images_per_batch: str,
    orders: str,
) -> RobustnessPlan:
    """Return what the options ask for, but for the corruptions, which depend on the images."""
    folders = {}
    for text in shifts:
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder:
            raise UserError(f"--shift {text!r}: expected NAME=FOLDER, such as imagenet-r=/data/imagenet-r")
        if name in folders:
            raise UserError(f"--shift {name}: given twice")
        folders[name] = folder
    wanted = _words(orders)
    for order in wanted:
        if order not in ("mixed", "by_label"):
            raise UserError(f"--orders: expected mixed or by_label, got {order!r}")
    if not wanted:
        raise UserError("--orders: no order given; expected mixed, by_label")
    chosen: list[Order] = ["mixed" if order == "mixed" else "by_label" for order in wanted]
    levels = _numbers(severities, "--severities", 5)
    return RobustnessPlan(
        severities=levels,
        folders=folders,
        max_images=max_images,
        with_parts=parts,
        methods=_methods(methods),
        images_per_batch=_numbers(images_per_batch, "--images-per-batch", None),
        orders=tuple(chosen),
    )


def _methods(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    names = tuple(METHODS) if text == "all" else tuple(_words(text))
    for name in names:
        if name not in METHODS:
            raise UserError(f"--methods: {name!r} is unknown; expected all, none, or {', '.join(METHODS)}")
    # Gains are against the unchanged estimates on the same stream.
    return tuple(dict.fromkeys((FROZEN, *names)))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str, option: str, highest: int | None) -> tuple[int, ...]:
    found = []
    for word in _words(text):
        if not word.isdecimal() or int(word) < 1 or (highest is not None and int(word) > highest):
            expected = f"1 to {highest}" if highest else "whole numbers from 1"
            raise UserError(f"{option}: expected {expected}, got {word!r}")
        found.append(int(word))
    if not found:
        raise UserError(f"{option}: no number given")
    return tuple(sorted(set(found)))


def _with_corruptions(plan: RobustnessPlan, text: str, *, is_grey: bool) -> RobustnessPlan:
    from suite.data.corruptions import chosen_corruptions

    names = [] if text == "none" else _words(text)
    chosen = chosen_corruptions(names, is_grey=is_grey)
    if not chosen and not plan.folders:
        raise UserError("robust: no shift is named: give --corruptions or --shift")
    return RobustnessPlan.model_validate({**plan.model_dump(), "corruptions": chosen})


def _measure_runs(
    config: Path,
    overrides: Sequence[str],
    plan: RobustnessPlan,
    corruptions: str,
    output_dir: Path,
    jobs: int,
) -> None:
    from jobs import exit_codes
    from jobs.checks import is_completed
    from jobs.local.child import environment_of, threads_of_a_rank
    from jobs.local.fork_client import process_starter
    from jobs.trained.robustness import measure_missing
    from suite.data.shifted import is_grey
    from suite.data.shifts import planned_shifts
    from suite.studies.study import load

    runs = load(config, overrides).runs
    plan = _with_corruptions(plan, corruptions, is_grey=any(is_grey(run.data) for run in runs))
    planned_shifts(plan)  # refuses a folder before anything starts
    done: list[Run] = [run for run in runs if is_completed(output_dir / run.folder_name)]
    console = Console(soft_wrap=True, highlight=False)
    if not done:
        raise UserError(f"{output_dir}: none of the {len(runs)} runs of {config} has completed there")
    if len(done) < len(runs):
        console.print(f"{len(runs) - len(done)} of {len(runs)} runs have not completed, and are left out")
    failed = 0
    with process_starter(len(done), environment_of(done, threads_of_a_rank(jobs), {})) as start_process:
        for run, error in measure_missing(done, plan, output_dir, jobs, start_process):
            failed += error is not None
            text = f"measured  {run.label}" if error is None else f"failed    {run.label}: {error}"
            console.print(text, markup=False)
    counts = f"{len(done) - failed} of {len(done)} runs are measured"
    console.print(f"{counts}; next: shiftbench report {output_dir}", markup=False)
    if failed:
        raise typer.Exit(exit_codes.SOME_RUNS_FAILED)


def _measure_network(network: dict[str, Any], plan: RobustnessPlan, corruptions: str, as_json: bool) -> None:
    from jobs.commands.probe_network import subject_of
    from jobs.commands.robust_tables import print_robustness
    from suite.data.shifted import is_grey

    subject = subject_of("robust", **network, split="val", accuracy_advice="")
    plan = _with_corruptions(plan, corruptions, is_grey=is_grey(subject.data))
    from suite.shift.robustness import Images, survey
    from suite.train.arithmetic import measuring

    given = subject.given
    images = Images(
        subject.data,
        subject.device,
        num_workers=len(os.sched_getaffinity(0)),
        normalisation=None if given.is_imagenets else (given.mean, given.std),
    )
    with measuring(subject.run):
        record = survey(subject.network, images, plan)
    if as_json:
        typer.echo(json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False))
        return
    print_robustness(record, f"{subject.title} on {subject.data.name}", subject.taken)
