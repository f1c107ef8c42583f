"""Prints what `shiftbench diagnose` found. No torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from suite.shift import Diagnosis


def print_diagnosis(found: "Diagnosis", about: Mapping[str, Any]) -> None:
    """Print accuracies, remedies, findings, and last the verdict. `about`: the network and its images."""
    console = Console(highlight=False, markup=False)
    images = f"{found.num_training_images:,} training and {found.num_evaluation_images:,} evaluation images"
    accuracies = Table(title=f"Diagnosis of {about['network']} on {about['data']}: {images}", box=None)
    for heading in ("images", "normalised with"):
        accuracies.add_column(heading)
    accuracies.add_column("top-1 (%)", justify="right")
    for one in found.accuracies:
        accuracies.add_row(one.images, one.statistics, f"{one.top1_percent:.1f}")
    console.print(accuracies)
    remedies = Table(title="What was tried on the evaluation images", box=None)
    remedies.add_column("remedy")
    for heading in ("top-1 (%)", "gives back (points)"):
        remedies.add_column(heading, justify="right")
    for tried in found.remedies:
        remedies.add_row(tried.name, f"{tried.top1_percent:.1f}", _interval(tried.gives_back))
    console.print(remedies)
    console.print(f"input: {about['input']}; {about['images_per_batch']} images a batch")
    if about["weights"] is not None:
        console.print(f"weights: {about['weights']}")
    if about["bad_images"]:
        console.print(f"left out: {len(about['bad_images'])} files, which --json lists", style="yellow")
    for note in found.notes:
        console.print(f"note: {note}", style="yellow")
    for finding in found.findings:
        costs = "" if finding.lost is None else f" Costs {_interval(finding.lost)} points on training images."
        console.print(
            f"{finding.title}: {finding.sentence}{costs}", style="bold" if finding.is_harmful else ""
        )
    for number, statement in enumerate(found.statements):
        console.print(f"{'verdict: ' if number == 0 else ''}{statement}")


def _interval(change: Any) -> str:
    return str(change).replace(" points", "")
