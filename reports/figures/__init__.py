"""Frames to figures."""

from dataclasses import dataclass

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
    """All figures in the report's order, what a reader can choose, and sentences on what they leave out.

    `only_in_files`: the slugs of those that a page has no room for.
    """

    figures: list[Figure]
    facets: list[Facet]
    notes: list[str]
    only_in_files: frozenset[str] = frozenset()

    def draws(self, figure: Figure) -> bool:
        """Return whether a page draws this figure."""
        return figure.slug not in self.only_in_files


def build_gallery(frames: Frames) -> Gallery:
    """All figures that the runs have data for, and which of them a page can hold."""
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
    left_out = _beyond_room(figures)
    if left_out:
        texts.append(
            f"To keep the page quick, {plural(len(left_out), 'figure')} of other models are only in the "
            f"folder figures: {listed([figure.title for figure in left_out], 3)}."
        )
    return Gallery(figures, choices, texts, frozenset(figure.slug for figure in left_out))


def _beyond_room(figures: list[Figure]) -> list[Figure]:
    """The figures that a page does not draw."""
    first = figures[0].cell if figures else {}
    room = MAX_CHARTS - sum(len(figure.panels) for figure in figures if figure.cell == first)
    left_out: list[Figure] = []
    for figure in figures:
        if figure.cell != first:
            room -= len(figure.panels)
            if room < 0:
                left_out.append(figure)
    return left_out
