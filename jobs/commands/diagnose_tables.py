"""Prints what `shiftbench diagnose` found. No torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from suite.terminal import print_rows

if TYPE_CHECKING:
    from suite.shift import Diagnosis


def print_diagnosis(found: "Diagnosis", about: Mapping[str, Any]) -> None:
    """Print accuracies, remedies, findings, and last the verdict. `about`: the network and its images."""
    console = Console(highlight=False, markup=False)
    images = f"{found.num_training_images:,} training and {found.num_evaluation_images:,} evaluation images"
    console.print(f"Diagnosis of {about['network']} on {about['data']}: {images}")
    accuracies = [
        [f"{one.images} images", one.statistics, f"{one.top1_percent:.1f}"] for one in found.accuracies
    ]
    print_rows(console, ["accuracy on", "normalised with", "top-1 (%)"], accuracies, numbers=[2])
    tried = [[one.name, f"{one.top1_percent:.1f}", _interval(one.gives_back)] for one in found.remedies]
    headings = ["tried on the evaluation images", "top-1 (%)", "gives back (points)"]
    print_rows(console, headings, tried, numbers=[1, 2])
    console.print(f"input: {about['input']}; {about['images_per_batch']} images a batch")
    if about["weights"] is not None:
        console.print(f"weights: {about['weights']}")
    if about["bad_images"]:
        console.print(f"left out: {len(about['bad_images'])} files, which --json lists", style="yellow")
    for note in found.notes:
        console.print(f"note: {note}", style="yellow")
    for one in found.findings:
        costs = "" if one.lost is None else f" Its cost on the training images: {_interval(one.lost)} points."
        console.print(f"{one.title}: {one.sentence}{costs}", style="yellow" if one.is_harmful else "")
    first, *others = found.statements
    console.print(f"verdict: {first}", style="bold")
    for statement in others:
        console.print(statement, style="bold")


def _interval(change: Any) -> str:
    return str(change).replace(" points", "")
