"""Frames to figures."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from reports.figures.bands import curves
from reports.figures.by_steps import accuracy_by_throughput, by_norm_batch, throughput
from reports.figures.figure import Figure, Maker, Panel, contexts
from reports.figures.robustness import cost_by_shift
from reports.figures.shift import accuracy_by_shift, heat_maps, profiles
from reports.filters import Facet, facets, notes
from reports.frames import CONTEXT, Frames
from reports.numbers import listed, plural
from reports.theme import variants

__all__ = ["Facet", "Figure", "Gallery", "Panel", "build_gallery"]

# A page that draws more answers too late. The first context has all of its charts in any case.
MAX_CHARTS = 48
# Of combinations of model, data, settings and global batch: files of more take minutes to draw.
MAX_CONTEXTS = 48
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
    """All figures that the runs have data for; a page draws as many of them as it can hold."""
    counted = frames.counted
    palette = variants(counted)
    choices = facets(counted, palette)
    chosen = counted[counted.norm.isin([variant.label for variant in palette])]
    batches = next((facet for facet in choices if facet.axis == "norm_batch_size"), None)
    if batches is not None:
        chosen = chosen[~chosen.has_bn | chosen.norm_batch_size.astype(str).isin(batches.values)]
    shown = contexts(chosen, MAX_CONTEXTS)
    texts = notes(choices)
    total = chosen.groupby(CONTEXT, observed=True).ngroups
    if total > len(shown):
        texts.append(
            f"Charts are drawn for the first {len(shown)} of {total} combinations of model, data, settings "
            "and global batch; a report on fewer runs has the others."
        )
    figures = [figure for make in MAKERS for context in shown for figure in make(frames, context, palette)]
    placed = list(_placed(figures))
    left_out = [figure.title for figure in placed if not figure.on_page]
    if left_out:
        texts.append(
            f"To keep the page quick, {plural(len(left_out), 'figure')} of other models are only in the "
            f"folder figures: {listed(left_out, 3)}."
        )
    return Gallery(placed, choices, texts)


def _placed(figures: list[Figure]) -> Iterator[Figure]:
    """All figures; those that a page has no room for are not on it."""
    first = figures[0].cell if figures else {}
    room = MAX_CHARTS - sum(len(figure.page_panels) for figure in figures if figure.cell == first)
    for figure in figures:
        if figure.cell != first:
            room -= len(figure.page_panels)
        yield replace(figure, on_page=figure.cell == first or room >= 0)
