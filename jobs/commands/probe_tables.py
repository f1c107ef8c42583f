"""How `shiftbench probe` shows what it measured: as tables, or as JSON. No torch."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from suite.shift import Attribution, Origins, Perturbation, Remedies, ShiftProfile

PROFILE = {
    "esm_mu": "ESM μ",
    "esm_sigma": "ESM σ",
    "esm_mu_scaled": "ESM μ, scaled",
    "esm_sigma_scaled": "ESM σ, scaled",
}


def rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """A frame as JSON knows it: what is not finite becomes null."""
    return [
        {str(k): None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]


def as_plain(profile: "ShiftProfile") -> dict[str, Any]:
    """A profile as JSON knows it."""
    layers = rows(profile.to_frame().drop(columns="depth").rename(columns={"layer": "name"}))
    return {
        "num_images": profile.num_images,
        "layers": layers,
        "skipped": profile.skipped,
        "notes": profile.notes,
    }


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
    """ESM of each layer in its two signed shares, each with its sampling error."""
    names = [name for symbol in "μσ" for name in (f"ESM {symbol}", "±", "own", "±", "inherited", "±")]
    table = _table("Where it comes from: signed shares that add up to ESM", "layer", names)
    for layer in attribution.layers:
        cells = [
            f"{value:.4f}"
            for parts in (layer.mu, layer.sigma)
            for share in ("esm", "own", "inherited")
            for value in (getattr(parts, share), getattr(parts, f"{share}_error"))
        ]
        table.add_row(layer.name, *cells)
    Console().print(table)


def print_origins(origins: "Origins") -> None:
    """What vanishes of the mean over all layers when each alone is made exact."""
    table = _table(
        "Which layer starts it: what vanishes when it alone is exact",
        "layer",
        ["layers behind", "mean ESM μ", "mean ESM σ", "top-1 gained (points)"],
    )
    for layer in origins.layers:
        gain = "" if layer.top1_gain_percent is None else f"{layer.top1_gain_percent:+.2f}"
        vanished = [f"{v:.4f}" for v in (layer.esm_mu_vanished, layer.esm_sigma_vanished)]
        is_start = layer.name == origins.starts
        table.add_row(
            layer.name, str(layer.num_layers_behind), *vanished, gain, style="bold" if is_start else ""
        )
    Console().print(table)


def print_remedies(remedies: "Remedies", num_training_images: int) -> None:
    """Top-1 and mean ESM of each remedy."""
    images = f"{remedies.num_images} images; {num_training_images} of training, centre-cropped"
    table = _table(
        f"Remedies without training, {images}",
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
