"""Prints what `shiftbench probe` measured, as tables or as JSON, from each result's frame. No torch."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from suite.detection.parts import means_by_part
from suite.metrics import CROSS, METRICS, PROBED, SHIFT_MU, SHIFT_SIGMA
from suite.specs.task_table import ACCURACIES

if TYPE_CHECKING:
    import pandas as pd

    from suite.models import NormSite

Row = Mapping[Any, Any]
Columns = Mapping[str, tuple[str, str]]
MAX_LISTED = 3  # bad files
MIN_GROUPS = 4  # of batches, two in each half
TITLES = {
    "attribution": "Where it comes from, signed shares that add up to the scaled ESM (±: standard error)",
    "origins": "Which layer starts it: scaled ESM that vanishes, and top-1 gained in points, when it alone is"
    " exact, by {training}",
    "remedies": "Remedies without training, ESM as a mean over the layers; {num_images} images; {training}",
    "perturbation": "Noise on the estimates, {num_images} images",
    "re_estimation": "With the statistics it has and with re-estimated ones, ESM as a mean over the layers;"
    " {num_images} images; {training}",
    "deployment": "As deployed: scaled ESM of the folded layers, which is frozen in; differences of logits in"
    " their standard deviations; {num_images} images; {training}",
}
# Of each result: the heading and the number format of each column of its frame that is printed.
COLUMNS = {
    "profile": {"layer": ("layer", ""), "num_channels": ("channels", "d")}
    | {name: (METRICS[name].title, ".4f") for name in PROBED if name not in CROSS},
    "cross": {"layer": ("layer", "")}
    | {
        f"esm_{statistic}_scaled_cross{end}": (heading, ".4f")
        for statistic, symbol in (("mu", "μ"), ("sigma", "σ"))
        for end, heading in (("", f"scaled ESM {symbol}"), ("_low", "from"), ("_high", "to"))
    },
    "attribution": {"layer": ("layer", ""), "statistic": ("of", "")}
    | {"esm": ("ESM", ".4f"), "esm_error": ("±", ".4f"), "own": ("own", ".4f"), "own_error": ("±", ".4f")}
    | {"inherited": ("inherited", ".4f"), "inherited_error": ("±", ".4f")},
    "origins": {"layer": ("layer", ""), "num_layers_behind": ("behind", "d")}
    | {"esm_vanished": ("mean ESM", ".4f"), "esm_vanished_error": ("±", ".4f")}
    | {"esm_mu_vanished": ("of μ", ".4f"), "esm_sigma_vanished": ("of σ", ".4f")}
    | {"selected_percent": ("chosen (%)", ".0f"), "top1_gain_percent": ("top-1", "+.2f")},
    "remedies": {"remedy": ("remedy", ""), "top1_percent": ("top-1 (%)", ".2f")}
    | {"top1_gain_percent": ("gained", "+.2f")}
    | {"esm_mu_scaled": ("scaled μ", ".3f"), "esm_sigma_scaled": ("scaled σ", ".3f")}
    | {"esm_mu": ("ESM μ", ".3f"), "esm_sigma": ("ESM σ", ".3f")},
    "re_estimation": {"statistics": ("statistics", ""), "top1_percent": ("top-1 (%)", ".2f")}
    | {"top1_gain_percent": ("gained", "+.2f")}
    | {"esm_mu_scaled": ("scaled μ", ".3f"), "esm_sigma_scaled": ("scaled σ", ".3f")}
    | {"esm_mu": ("ESM μ", ".3f"), "esm_sigma": ("ESM σ", ".3f")},
    "deployment": {"network": ("network", ""), "statistics": ("statistics", "")}
    | {"top1_percent": ("top-1 (%)", ".2f"), "top1_gain_percent": ("gained", "+.2f")}
    | {"logit_difference": ("logits differ", ".2g")}
    | {"esm_mu_scaled": ("scaled μ", ".3f"), "esm_sigma_scaled": ("scaled σ", ".3f")},
    "perturbation": {"delta": ("δ", "g"), "mean": ("top-1 (%)", ".2f")}
    | {"min": ("lowest", ".2f"), "max": ("highest", ".2f"), "count": ("draws", "d")},
}


def by_role(sites: Iterable["NormSite"]) -> str:
    """Return how many norms were replaced by role, such as " (replaced: 16 p2, 1 stem)"; empty for none."""
    counts = Counter("/".join(sorted(site.roles)) for site in sites)
    return f" (replaced: {', '.join(f'{n} {role}' for role, n in counts.most_common())})" if counts else ""


def rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return a frame's rows for JSON, with null for numbers that are not finite."""
    return [plain_row(row) for row in frame.astype(object).to_dict("records")]


def plain_row(row: Row) -> dict[str, Any]:
    """Return a row for JSON, with null for numbers that are not finite."""
    return {str(k): None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


@dataclass(frozen=True)
class Measured:
    """The results of `suite.shift` by name, and the images that they are of.

    `num_training_images`: how many, not augmented, the exact statistics are of. `bad_images`: the files that
    were left out, and why. `input`: a sentence on the size and normalisation of the network's input.
    """

    found: dict[str, Any]
    num_training_images: int
    bad_images: dict[str, str]
    input: str
    weights: str | None = None  # what was taken of a checkpoint


def as_plain(measured: Measured) -> dict[str, Any]:
    """Return all results for JSON."""
    found = measured.found
    profile = found["profile"]
    frames = {name: rows(result.to_frame()) for name, result in found.items()}
    plain = {"num_images": profile.num_images, "num_training_images": measured.num_training_images}
    plain |= {"input": measured.input, "bad_images": measured.bad_images, "weights": measured.weights}
    plain |= {"layers": frames.pop("profile"), "skipped": profile.skipped, "notes": profile.notes, **frames}
    if (origins := found.get("origins")) is not None:
        names = ("starts", "esm", "esm_mu", "esm_sigma", "scale", "top1_percent")
        whole = plain_row({name: getattr(origins, name) for name in names})
        plain["origins"] = {**whole, "layers": frames["origins"]}
    if (deployment := found.get("deployment")) is not None:
        norms = {"folded": list(deployment.folded), "left": deployment.left}
        plain["deployment"] = {"forms": frames["deployment"], **norms}
    return plain


def print_all(measured: Measured, title: str) -> None:
    """Print a table of each result. `title` names the network and its images."""
    found = measured.found
    profile, console = found["profile"], Console()
    if profile.layers:
        mean = {"layer": "mean", **{name: profile.mean(name) for name in PROBED}}
        heading = f"Estimation shift of {title}, {profile.num_images} images"
        _print_frame(heading, profile.to_frame(), COLUMNS["profile"], last=mean)
        _print_cross(profile, console)
        _print_parts(profile, console)
    elif profile.is_partial:
        console.print("Nothing could be measured of what may have an estimation shift in this network:")
    else:
        console.print("The network has no BN layer that keeps estimates: there is no estimation shift.")
    console.print(f"input: {measured.input}", highlight=False, markup=False)
    if measured.weights is not None:
        console.print(f"weights: {measured.weights}", highlight=False, markup=False)
    for path, reason in list(measured.bad_images.items())[:MAX_LISTED]:
        console.print(f"left out: {path}: {reason}", style="yellow", highlight=False, markup=False)
    if (more := len(measured.bad_images) - MAX_LISTED) > 0:
        console.print(f"left out: {more} more files, which --json lists", style="yellow", highlight=False)
    for word, reasons in (("left out", profile.skipped), ("note", profile.notes)):
        for reason in dict.fromkeys(reasons.values()):
            layers = [name for name in reasons if reasons[name] == reason]
            which = layers[0] if len(layers) == 1 else f"{len(layers)} layers ({layers[0]} …)"
            console.print(f"{word}: {which}: {reason}", style="yellow", highlight=False)
    training = f"{measured.num_training_images} training images, not augmented"
    for name, heading in TITLES.items():
        if (result := found.get(name)) is None:
            continue
        frame, start = result.to_frame(), getattr(result, "starts", None)
        if name == "attribution":
            frame = frame.replace({"statistic": {"mu": "μ", "sigma": "σ"}})
        if name == "perturbation":
            frame = frame.groupby("delta").top1_percent.agg(["mean", "min", "max", "count"]).reset_index()
        heading = heading.format(training=training, num_images=profile.num_images)
        columns = COLUMNS[name]
        if name == "remedies":
            columns = {
                c.replace("top1", result.accuracy): _named(v, result.accuracy) for c, v in columns.items()
            }
        _print_frame(heading, frame, columns, bold=start)
        if name == "origins":
            verdict = f"it starts in {start}" if start else "no single layer starts it"
            console.print(f"Of a mean ESM of {result.esm:.4f}: {verdict}.", markup=False, highlight=False)
        if name == "deployment":
            _print_folded(result, console)


def _named(column: tuple[str, str], accuracy: str) -> tuple[str, str]:
    """Return the heading of a column with the accuracy's own name."""
    heading, spec = column
    return heading.replace("top-1", ACCURACIES[f"{accuracy}_percent"]), spec


def _print_parts(profile: Any, console: Console) -> None:
    """Print a detector's shift by its parts."""
    for symbol, name in (("μ", SHIFT_MU), ("σ", SHIFT_SIGMA)):
        values = [(layer.name, getattr(layer, name)) for layer in profile.layers]
        parts = [
            f"{part} {mean:.4f} ({count} layers)" for part, (count, mean) in means_by_part(values).items()
        ]
        if parts:
            console.print(
                f"mean scaled ESM {symbol} by part: {', '.join(parts)}", highlight=False, markup=False
            )


def _print_folded(deployment: Any, console: Console) -> None:
    """Print how many norms were folded, and why others stay."""
    console.print(f"{len(deployment.folded)} norms folded, {len(deployment.left)} left", highlight=False)
    for reason in dict.fromkeys(deployment.left.values()):
        first = next(name for name in deployment.left if deployment.left[name] == reason)
        console.print(f"left: {first} …: {reason}", style="yellow", highlight=False, markup=False)


def _print_cross(profile: Any, console: Console) -> None:
    """Print the shift without its upward bias by sampling, with 95 % intervals."""
    num_groups = max(layer.num_groups for layer in profile.layers)
    if num_groups < MIN_GROUPS:
        few = f"{profile.num_images} images in {num_groups} batch{'es' * (num_groups > 1)}"
        console.print(f"No intervals: they need {MIN_GROUPS} batches or more, and these are {few}.")
        return
    heading = f"Without the upward bias by sampling: cross-half, 95 % intervals, {profile.num_images} images"
    _print_frame(heading, profile.to_frame(), COLUMNS["cross"])


def _print_frame(
    title: str, frame: "pd.DataFrame", columns: Columns, *, bold: str | None = None, last: Row | None = None
) -> None:
    """Print the chosen columns; None as an empty cell.

    `bold` is the first cell of a row to emphasise, `last` a further row below a line, such as the mean.
    """
    table = Table(title=title, box=None)
    for heading, spec in columns.values():
        table.add_column(heading, justify="right" if spec else "left")
    for row in [*frame.astype(object).to_dict("records"), *([] if last is None else [last])]:
        if row is last:
            table.add_section()
        values = [(row.get(name), spec) for name, (_, spec) in columns.items()]
        cells = ["" if value is None else format(value, spec) for value, spec in values]
        table.add_row(*cells, style="bold" if row is last or cells[0] == bold else "")
    Console().print(table)
