"""The paper's figures drawn anew: our lines, and its points where it has some."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from reports.charts.beside import Beside, beside_chart
from reports.claims.depth import profiles
from reports.claims.evidence import Evidence
from reports.claims.inference import errors
from reports.claims.noise import FAMILIES, family, relative_top1
from reports.figures import Figure, Panel
from reports.figures.figure import MAX_PANELS
from reports.frames import Frames
from reports.numbers import short
from reports.paper.numbers import Series, load_paper
from reports.spread import extremes, thinned

SECTION = "claims"
# Lines that are told apart in one chart.
_MAX_LINES = 8
_HOLLOW = "Line: mean over seeds; band: lowest to highest. Hollow marks: read off the paper's plot."


@dataclass(frozen=True)
class ClaimFigure(Figure):
    """A figure whose lines are not the report's norms: it stays whatever a reader filters."""

    norms: Sequence[str] = ()

    @property
    def holds(self) -> dict[str, list[str]]:
        return {"norm": list(self.norms), "norm_batch_size": self.batches}


def claim_figures(evidence: Sequence[Evidence], runs: pd.DataFrame) -> list[Figure]:
    """In the claims' order. `runs`: those of the whole report, whose axes the page filters by."""
    norms = [str(norm) for norm in runs.norm.unique()]
    batches = [str(size) for size in sorted(runs.norm_batch_size.unique())]
    found: list[Figure] = []
    for one in evidence:
        if one.frames is None or one.frames.completed.empty:
            continue
        for slug, title, caption, panels in _DRAWN.get(one.letter, _nothing)(one.frames):
            name = f"claim-{one.letter.lower()}-{slug}"
            head = f"{one.letter}: {title}"
            found.append(ClaimFigure(name, SECTION, head, caption, panels, [], [], {}, batches, norms))
    return found


_Drawn = Iterator[tuple[str, str, str, list[Panel]]]


def _nothing(_: Frames) -> _Drawn:
    yield from ()


def _inference(frames: Frames) -> _Drawn:
    values = errors(frames)
    if not values.empty:
        ours = _means(values, "series", "epoch")
        papers = _papers(
            {"Training": "inaccurate-estimates/train", "Inference mode": "inaccurate-estimates/inference"}
        )
        axes = Beside("Epoch", "Error (%)", ("Training", "Inference mode"))
        title = "error on the training images"
        yield "error-by-epoch", title, _HOLLOW, [_panel("", title, ours, papers, axes)]
    shift = frames.shift_by_epoch(frames.completed.run.tolist(), "esm_sigma")
    if shift.epoch.nunique() > 1:
        epochs = thinned(shift.epoch.unique().tolist(), _MAX_LINES)
        shift = shift[shift.epoch.isin(epochs)]
        ours = shift.assign(
            line="epoch " + shift.epoch.astype(str), x=shift.position, low=shift.value, high=shift.value
        )
        axes = Beside("Layer", "ESM σ", tuple(f"epoch {epoch}" for epoch in epochs))
        title = "ESM σ by layer and epoch"
        panel = _panel("", title, ours, _papers({}), axes)
        yield "esm-by-layer", title, "Line: mean over seeds at an epoch.", [panel]


def _accumulation(frames: Frames) -> _Drawn:
    values = profiles(frames)
    values = values[values.norm_rank == 0]
    if values.empty:
        return
    sizes = thinned(values.images.unique().tolist(), _MAX_LINES)
    values = values[values.images.isin(sizes)]
    ours = _means(values.assign(line=values.images.map(_images)), "line", "position")
    papers = _papers({_images(size): f"small-training-sets/{size}" for size in sizes})
    axes = Beside("Layer", "ESM σ", tuple(_images(size) for size in sizes))
    title = "ESM σ by layer and size of the training set"
    yield "esm-by-layer", title, _HOLLOW, [_panel("", title, ours, papers, axes)]


def _blocking(frames: Frames) -> _Drawn:
    values = profiles(frames)
    sizes = thinned(values.images.unique().tolist(), MAX_PANELS)
    lines = tuple(values.sort_values("norm_rank").norm.unique())
    axes = Beside("Layer", "ESM σ", lines)
    panels = []
    for size in sizes:
        names = {0: f"small-training-sets/{size}", 1: f"blocking/{size}"}
        ranks = values[values.images == size].drop_duplicates("norm").set_index("norm").norm_rank
        papers = _papers({str(norm): names[int(rank)] for norm, rank in ranks.items()})
        ours = _means(values[values.images == size], "norm", "position")
        panels.append(_panel(_images(size), f"ESM σ by layer, {_images(size)}", ours, papers, axes))
    if panels:
        yield "esm-by-layer", "ESM σ by layer, BN and GN in every second layer", _HOLLOW, panels


def _noise(frames: Frames) -> _Drawn:
    values = relative_top1(frames)
    if values.empty:
        return
    lines = tuple(str(norm) for norm in values.norm.unique())
    papers = _papers({n: FAMILIES[f] for n in lines if (f := family(n)) is not None}, relative=True)
    axes = Beside("Noise magnitude δ", "Top-1 (% of that without noise)", lines)
    title = "top-1 by noise on the estimates"
    caption = f"{_HOLLOW} A seed's value is the mean over its draws; the paper's are of ImageNet."
    yield "top1-by-noise", title, caption, [_panel("", title, _means(values, "norm", "delta"), papers, axes)]


_DRAWN = {"A": _inference, "B": _accumulation, "C": _blocking, "D": _noise}


def _images(size: int) -> str:
    return f"{size:,} images"


def _means(values: pd.DataFrame, line: str, x: str) -> pd.DataFrame:
    """Over the seeds: line, x, value, low, high, seeds."""
    named = pd.DataFrame(
        {"line": values[line].astype(str), "x": values[x].astype(float), "value": values.value}
    )
    return extremes(named.dropna(), ["line", "x"]).sort_values(["line", "x"], ignore_index=True)


def _papers(series: dict[str, str], relative: bool = False) -> pd.DataFrame:
    """The paper's points for each line that it has; `relative`: in % of the first."""
    rows: list[tuple[str, float, float]] = []
    known: dict[str, Series] = {one.id: one for one in load_paper().series}
    for line, name in series.items():
        if name in known:
            points = known[name].values
            first = next(iter(points.values()))
            rows += [(line, x, 100 * y / first if relative else y) for x, y in points.items()]
    return pd.DataFrame(rows, columns=["line", "x", "value"])


def _panel(title: str, what: str, ours: pd.DataFrame, papers: pd.DataFrame, axes: Beside) -> Panel:
    """Its description tells where each line begins and ends."""
    told = []
    for line, points in ours.groupby("line", sort=False):
        first, last = points.sort_values("x").value.iloc[[0, -1]]
        told.append(f"{line} from {short(first)} to {short(last)}")
    return Panel(title, f"{what}: {'; '.join(told)}", partial(beside_chart, ours, papers, axes))
