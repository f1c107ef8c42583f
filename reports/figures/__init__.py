"""Frames to figures."""

from dataclasses import dataclass

from reports.figures.bands import curves
from reports.figures.by_steps import accuracy_by_throughput, by_norm_batch, throughput
from reports.figures.figure import Figure, Maker, Panel, contexts
from reports.figures.robustness import cost_by_shift
from reports.figures.shift import accuracy_by_shift, heat_maps, profiles
from reports.filters import Facet, facets, notes
from reports.frames import CONTEXT, Frames
from reports.numbers import plural
from reports.theme import variants

__all__ = ["Facet", "Figure", "Gallery", "Panel", "build_gallery"]

# A page that draws more answers too late. The first context has all of its charts in any case.
MAX_CHARTS = 48
MAX_CONTEXTS = 12
# In the order in which room is given out, and in which a section shows them.
MAKERS: tuple[Maker, ...] = (
    by_norm_batch,
    accuracy_by_shift,
    cost_by_shift,
    profiles,
    heat_maps,
    accuracy_by_throughput,
    throughput,
    curves,
)


@dataclass(frozen=True)
class Gallery:
    """All figures in the report's order, what a reader can choose, and sentences on what they leave out."""

    figures: list[Figure]
    facets: list[Facet]
    notes: list[str]


def build_gallery(frames: Frames) -> Gallery:
    """All figures that the runs have data for, as far as a page can hold them."""
    counted = frames.counted
    palette = variants(counted)
    choices = facets(counted, palette)
    chosen = counted[counted.norm.isin([variant.label for variant in palette])]
    batches = next((facet for facet in choices if facet.axis == "norm_batch_size"), None)
    if batches is not None:
        chosen = chosen[chosen.norm_batch_size.astype(str).isin(batches.values)]
    shown = contexts(chosen, MAX_CONTEXTS)
    texts = notes(choices)
    total = chosen.groupby(CONTEXT, observed=True).ngroups
    if total > len(shown):
        texts.append(
            f"Charts are drawn for the first {len(shown)} of {total} combinations of model, data, settings "
            "and global batch."
        )
    figures = [figure for make in MAKERS for context in shown for figure in make(frames, context, palette)]
    kept, left_out = _within_room(figures)
    if left_out:
        names = "; ".join(figure.title for figure in left_out[:3])
        more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        texts.append(
            f"To keep the page quick, {plural(len(left_out), 'figure')} are not drawn: {names}{more}."
        )
    return Gallery(kept, choices, texts)


def _within_room(figures: list[Figure]) -> tuple[list[Figure], list[Figure]]:
    """Which figures are drawn, and which are not."""
    first = figures[0].cell if figures else {}
    room = MAX_CHARTS - sum(len(figure.panels) for figure in figures if figure.cell == first)
    kept: list[Figure] = []
    left_out: list[Figure] = []
    for figure in figures:
        if figure.cell != first:
            room -= len(figure.panels)
        (kept if figure.cell == first or room >= 0 else left_out).append(figure)
    return kept, left_out
