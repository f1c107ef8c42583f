"""How `shiftbench probe` shows what it measured: as tables, or as JSON. No torch."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from jobs.commands.probe_measures import Found
    from suite.shift import Attribution, Origins, Perturbation, Remedies, ShiftProfile

PROFILE = {
    "esm_mu": "ESM μ",
    "esm_sigma": "ESM σ",
    "esm_mu_scaled": "ESM μ, scaled",
    "esm_sigma_scaled": "ESM σ, scaled",
}


def rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """A frame as JSON knows it: what is not finite becomes null."""
    records = frame.astype(object).to_dict("records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in records]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_plain(found: "Found") -> dict[str, Any]:
    """All of it as JSON knows it."""
    profile, origins = found.profile, found.origins
    plain: dict[str, Any] = {
        "num_images": profile.num_images,
        "num_training_images": found.num_training_images,
        "layers": rows(profile.to_frame()),
        "skipped": profile.skipped,
        "notes": profile.notes,
    }
    if found.attribution is not None:
        plain["attribution"] = rows(found.attribution.to_frame())
    if origins is not None:
        names = ("starts", "esm", "esm_mu", "esm_sigma", "scale", "top1_percent")
        whole = {name: _plain(getattr(origins, name)) for name in names}
        plain["origins"] = {**whole, "layers": rows(origins.to_frame())}
    if found.remedies is not None:
        plain["remedies"] = rows(found.remedies.to_frame())
    if found.perturbation is not None:
        plain["perturbation"] = rows(found.perturbation.to_frame())
    return plain


def print_all(found: "Found", title: str) -> None:
    """A table for each; `title` names the network and its images."""
    print_profile(found.profile, title)
    training = f"{found.num_training_images} training images, centre-cropped"
    if found.attribution is not None:
        print_attribution(found.attribution)
    if found.origins is not None:
        print_origins(found.origins, training)
    if found.remedies is not None:
        print_remedies(found.remedies, training)
    if found.perturbation is not None:
        print_perturbation(found.perturbation)


def print_profile(profile: "ShiftProfile", title: str) -> None:
    """A row for each layer and their mean; then what was left out, and what one should know."""
    console = Console()
    if profile.layers:
        table = _table(
            f"Estimation shift of {title}, {profile.num_images} images",
            "layer",
            ["channels", *PROFILE.values()],
        )
        for layer in profile.layers:
            table.add_row(layer.name, str(layer.num_channels), *[f"{getattr(layer, m):.4f}" for m in PROFILE])
        table.add_section()
        table.add_row("mean", "", *[f"{profile.mean(m):.4f}" for m in PROFILE], style="bold")
        console.print(table)
    else:
        console.print("The network has no BN layer that keeps estimates: there is no estimation shift.")
    _print_reasons(console, "left out", profile.skipped)
    _print_reasons(console, "note", profile.notes)


def print_attribution(attribution: "Attribution") -> None:
    """ESM of each layer in its two signed shares, each with its standard error from the batches."""
    names = [name for symbol in "μσ" for name in (f"ESM {symbol}", "±", "own", "±", "inherited", "±")]
    table = _table(
        "Where it comes from, over these images: signed shares that add up to ESM (±: standard error)",
        "layer",
        names,
    )
    for layer in attribution.layers:
        cells = [
            f"{value:.4f}"
            for parts in (layer.mu, layer.sigma)
            for share in ("esm", "own", "inherited")
            for value in (getattr(parts, share), getattr(parts, f"{share}_error"))
        ]
        table.add_row(layer.name, *cells)
    Console().print(table)


def print_origins(origins: "Origins", training: str) -> None:
    """What vanishes of the mean over all layers when each alone is made exact; the one that starts it."""
    table = _table(
        f"Which layer starts it: what vanishes when it alone is exact, by {training}",
        "layer",
        ["layers behind", "mean ESM", "of μ", "of σ", "top-1 gained (points)"],
    )
    for layer in origins.layers:
        gain = "" if layer.top1_gain_percent is None else f"{layer.top1_gain_percent:+.2f}"
        values = (layer.esm_vanished, layer.esm_mu_vanished, layer.esm_sigma_vanished)
        vanished = [f"{value:.4f}" for value in values]
        is_start = layer.name == origins.starts
        table.add_row(
            layer.name, str(layer.num_layers_behind), *vanished, gain, style="bold" if is_start else ""
        )
    console = Console()
    console.print(table)
    told = f"it starts in {origins.starts}" if origins.starts else "no single layer starts it"
    console.print(f"Of a mean ESM of {origins.esm:.4f}: {told}.", markup=False, highlight=False)


def print_remedies(remedies: "Remedies", training: str) -> None:
    """Top-1 and mean ESM of each remedy."""
    table = _table(
        f"Remedies without training, {remedies.num_images} images; {training}",
        "remedy",
        ["top-1 (%)", "gained (points)", "mean ESM μ", "mean ESM σ"],
    )
    for row in remedies.rows:
        gain = row.top1_percent - remedies.rows[0].top1_percent
        table.add_row(
            row.name, f"{row.top1_percent:.2f}", f"{gain:+.2f}", f"{row.esm_mu:.4f}", f"{row.esm_sigma:.4f}"
        )
    Console().print(table)


def print_perturbation(perturbation: "Perturbation") -> None:
    """Top-1 under noise of each magnitude: mean over the draws, lowest and highest."""
    draws = len(perturbation.top1_percent[0])
    title = f"Noise on the estimates, {perturbation.num_images} images, {draws} draws"
    table = _table(title, "δ", ["top-1 (%)", "lowest", "highest"])
    for delta, found in zip(perturbation.deltas, perturbation.top1_percent, strict=True):
        cells = (math.fsum(found) / draws, min(found), max(found))
        table.add_row(f"{delta:g}", *(f"{value:.2f}" for value in cells))
    Console().print(table)


def _table(title: str, first: str, others: list[str]) -> Table:
    table = Table(first, title=title, box=None)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _print_reasons(console: Console, word: str, reasons: Mapping[str, str]) -> None:
    """Each reason once, with the layers that it holds for."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    for reason, found in names.items():
        whose = found[0] if len(found) == 1 else f"{len(found)} layers ({found[0]} …)"
        console.print(f"{word}: {whose}: {reason}", style="yellow", highlight=False)
