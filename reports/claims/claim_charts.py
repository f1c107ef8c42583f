"""The paper's figures drawn anew for each claim: our lines, and the paper's points where it has some."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from reports.accuracy import ACCURACY, accuracy_name, accuracy_title
from reports.charts.band import LineAxes, paper_points_chart
from reports.claims.depth import profiles
from reports.claims.inference import CORRECTED, INFERENCE, TRAINING, errors
from reports.claims.noise_loss import SCOPES, relative_top1
from reports.claims.positions import CLAIMED_NORMS, POSITIONS, top1_by_site
from reports.claims.result import Evidence
from reports.figures import Figure, Panel
from reports.figures.figure import MAX_PANELS
from reports.findings.robustness import shift_rows
from reports.frames import Frames
from reports.numbers import short
from reports.paper.published import Series, load_paper
from reports.seed_statistics import extremes, thinned
from suite.metrics import SHIFT_SIGMA
from suite.specs.task_table import TASKS

# As many lines as can be distinguished in one chart.
_MAX_LINES = 8
_LINE = "Line: mean over seeds; band: lowest to highest."
_HOLLOW = "Hollow marks: read off the paper's plot."
RAW = "esm_sigma"  # the paper's own measure, in the paper's own figures
_NO_POINTS = pd.DataFrame(columns=["line", "x", "value"])


@dataclass(frozen=True)
class ClaimChart:
    """The panels of a figure; `slug` ends its file's name."""

    slug: str
    title: str
    caption: str
    panels: list[Panel]


ClaimCharts = Iterator[ClaimChart]


def _inference(frames: Frames) -> ClaimCharts:
    values = errors(frames)
    if not values.empty:
        ours = _means(values, "series", "epoch")
        papers = _papers(
            {TRAINING: "inaccurate-estimates/train", INFERENCE: "inaccurate-estimates/inference"}
        )
        axes = LineAxes("Epoch", "Error (%)", (TRAINING, INFERENCE, CORRECTED))
        yield _single("error-by-epoch", "error on the training images", ours, axes, papers)
    shift = frames.shift_by_epoch(frames.completed.run.tolist(), RAW)
    if shift.epoch.nunique() > 1:
        epochs = thinned(shift.epoch.unique().tolist(), _MAX_LINES)
        shift = shift[shift.epoch.isin(epochs)]
        ours = shift.assign(
            line="epoch " + shift.epoch.astype(str), x=shift.position, low=shift.value, high=shift.value
        )
        axes = LineAxes("Layer", "ESM σ", tuple(f"epoch {epoch}" for epoch in epochs))
        title = "ESM σ by layer and epoch"
        panel = _panel("", title, ours, _NO_POINTS, axes)
        yield ClaimChart("esm-by-layer", title, "Line: mean over seeds at an epoch.", [panel])


def _accumulation(frames: Frames) -> ClaimCharts:
    values = profiles(frames, RAW)
    values = values[values.norm_family == "bn"]
    if values.empty:
        return
    sizes = thinned(values.images.unique().tolist(), _MAX_LINES)
    values = values[values.images.isin(sizes)]
    ours = _means(values.assign(line=values.images.map(_images)), "line", "position")
    papers = _papers({_images(size): f"small-training-sets/{size}" for size in sizes})
    axes = LineAxes("Layer", "ESM σ", tuple(_images(size) for size in sizes))
    yield _single("esm-by-layer", "ESM σ by layer and size of the training set", ours, axes, papers)


def _blocking(frames: Frames) -> ClaimCharts:
    values = profiles(frames, RAW)
    sizes = thinned(values.images.unique().tolist(), MAX_PANELS)
    lines = tuple(values.sort_values("norm_family").norm.unique())
    axes = LineAxes("Layer", "ESM σ", lines)
    panels = []
    for size in sizes:
        names = {"bn": f"small-training-sets/{size}", "xbn": f"blocking/{size}"}
        families = values[values.images == size].drop_duplicates("norm").set_index("norm").norm_family
        papers = _papers({str(norm): names[family] for norm, family in families.items()})
        ours = _means(values[values.images == size], "norm", "position")
        panels.append(_panel(_images(size), f"ESM σ by layer, {_images(size)}", ours, papers, axes))
    if panels:
        title = "ESM σ by layer, BN and GN in every second layer"
        yield ClaimChart("esm-by-layer", title, f"{_LINE} {_HOLLOW} Each panel has its own scale.", panels)
        yield from _blocking_by_epoch(frames, sizes)


def _blocking_by_epoch(frames: Frames, sizes: Sequence[int]) -> ClaimCharts:
    """Whether the curves of the layers that all norms have coincide: of the smallest and the largest set."""
    found = {}
    for size in dict.fromkeys((min(sizes), max(sizes))):
        done = frames.completed[frames.completed.global_batch_size == size].sort_values("norm_family")
        for norm, runs in done.groupby("norm", sort=False):
            shift = frames.shift_by_epoch(runs.run.tolist(), RAW)
            if shift.epoch.nunique() > 1:
                found[f"{norm}, {_images(size)}"] = shift
    shared = set.intersection(*(set(shift.position) for shift in found.values())) if found else set()
    places = thinned(sorted(shared), _MAX_LINES)
    axes = LineAxes("Epoch", "ESM σ", tuple(map(_layer, places)))
    panels = []
    for title, shift in found.items():
        chosen = shift[shift.position.isin(places)]
        ours = chosen.assign(
            line=chosen.position.map(_layer), x=chosen.epoch, low=chosen.value, high=chosen.value
        )
        panels.append(_panel(title, f"ESM σ by epoch, {title}", ours, _NO_POINTS, axes))
    if panels:
        caption = "Line: mean over seeds of a layer. Each panel has its own scale. Drawn, not judged."
        yield ClaimChart("esm-by-epoch", "ESM σ by epoch and layer", caption, panels)


def _noise(frames: Frames) -> ClaimCharts:
    values = relative_top1(frames)
    if values.empty:
        return
    lines = tuple(str(norm) for norm in values.norm.unique())
    curves = values[values.series != ""].drop_duplicates("norm")
    papers = _papers(dict(zip(curves.norm, curves.series, strict=True)), relative=True)
    axes = LineAxes("Noise magnitude δ", "Top-1 (% of that without noise)", lines)
    title = "top-1 by noise on the estimates"
    panels = [
        _panel(
            f"Noise {where}", f"{title} {where}", _means(values[values.scope == scope], "norm", "delta"),
            papers if scope == "all" else _NO_POINTS, axes,
        )
        for scope, where in SCOPES.items()
    ]  # fmt: skip
    more = "A seed's value is the mean over its draws; the paper's are of ImageNet."
    caption = " ".join([_LINE, *([] if papers.empty else [_HOLLOW]), more])
    yield ClaimChart("top1-by-noise", title, caption, panels)


def _small_batches(frames: Frames) -> ClaimCharts:
    """Both norms at the norm batch that is judged: each seed's accuracy by its shift."""
    done = frames.completed
    column = f"{SHIFT_SIGMA}_common"
    values = done[done.has_bn].dropna(subset=[column, ACCURACY]).sort_values(["norm_family", column])
    if values.norm.nunique() < 2:
        return
    lines = tuple(values.norm.unique())
    ours = pd.DataFrame({"line": values.norm, "x": values[column], "value": values[ACCURACY]}).assign(
        low=values[ACCURACY], high=values[ACCURACY], seeds=1
    )
    axes = LineAxes("Mean scaled ESM σ of the layers that both have", f"{accuracy_title(values)} (%)", lines)
    title = f"{accuracy_name(values)} by shift"
    caption = "Each mark is a run; the line joins those of a norm, from the smallest shift to the largest."
    stem = TASKS[values.task.iloc[0]].accuracy
    yield ClaimChart(f"{stem}-by-shift", title, caption, [_panel("", title, ours, _NO_POINTS, axes)])


def _lost_by_severity(frames: Frames) -> ClaimCharts:
    rows = shift_rows(frames)
    rows = rows[rows.kind == "corruption"]
    if rows.severity.nunique() < 2:
        return
    values = rows.rename(columns={"share_lost": "value"}).groupby(["norm", "seed", "severity"], sort=False)
    ours = _means(values.value.mean().reset_index(), "norm", "severity")
    axes = LineAxes("Severity", "Top-1 above chance lost (%)", tuple(rows.norm.unique()))
    yield _single("lost-by-severity", "accuracy lost by severity, mean over corruptions", ours, axes)


def _lost_by_shift(frames: Frames) -> ClaimCharts:
    """Each corruption at each severity, mean over seeds: what it costs by the ESM under it."""
    rows = shift_rows(frames)
    rows = rows[rows.esm.notna() & rows.share_lost.notna()]
    if rows.empty:
        return
    means = rows.groupby(["norm", "shift", "severity"], sort=False)
    cells = means.agg(x=("esm", "mean"), value=("share_lost", "mean"), seeds=("seed", "nunique"))
    cells = cells.reset_index().sort_values(["norm", "x"], kind="stable")
    ours = cells.assign(line=cells.norm, low=cells.value, high=cells.value)
    lines = tuple(rows.norm.unique())
    axes = LineAxes("Scaled ESM under the shift", "Top-1 above chance lost (%)", lines)
    title = "accuracy lost by the estimation shift under the shift"
    caption = "Each mark is a corruption at a severity, mean over seeds; the line joins those of a norm."
    columns = ["line", "x", "value", "low", "high", "seeds"]
    yield ClaimChart("lost-by-esm", title, caption, [_panel("", title, ours[columns], _NO_POINTS, axes)])


def _positions(frames: Frames) -> ClaimCharts:
    rows = [
        (bfn.upper(), POSITIONS.index(position) + 1, top1)
        for (bfn, position), by_seed in top1_by_site(frames).items()
        for top1 in by_seed.values()
    ]
    values = pd.DataFrame(rows, columns=["norm", "x", "value"])
    lines = tuple(norm for norm in map(str.upper, CLAIMED_NORMS) if norm in set(values.norm))
    if values.x.nunique() > 1:
        axes = LineAxes("Position", "Top-1 (%)", lines, ticks=(1, 2, 3), tick_prefix="P")
        ours = _means(values, "norm", "x")
        yield _single("top1-by-position", "top-1 by position of the batch-free norm", ours, axes)


CLAIM_CHARTS: Mapping[str, Callable[[Frames], ClaimCharts]] = {
    "A": _inference,
    "B": _accumulation,
    "C": _blocking,
    "D": _noise,
    "E": _small_batches,
    "F": _positions,
    "G": _lost_by_severity,
    "H": _lost_by_shift,
    "I": _small_batches,
}


def _layer(position: int) -> str:
    return f"layer {position}"


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


def _single(
    slug: str,
    title: str,
    ours: pd.DataFrame,
    axes: LineAxes,
    papers: pd.DataFrame = _NO_POINTS,
) -> ClaimChart:
    """A figure of one panel."""
    caption = _LINE if papers.empty else f"{_LINE} {_HOLLOW}"
    return ClaimChart(slug, title, caption, [_panel("", title, ours, papers, axes)])


def _panel(title: str, what: str, ours: pd.DataFrame, papers: pd.DataFrame, axes: LineAxes) -> Panel:
    """Its description says where each line begins and ends."""
    texts = []
    for line, points in ours.groupby("line", sort=False):
        first, last = points.sort_values("x").value.iloc[[0, -1]]
        texts.append(f"{line} from {short(first)} to {short(last)}")
    return Panel(title, f"{what}: {'; '.join(texts)}", partial(paper_points_chart, ours, papers, axes))


SECTION = "claims"


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
        for chart in CLAIM_CHARTS[one.letter](one.frames):
            slug = f"claim-{one.letter.lower()}-{chart.slug}"
            title = f"{one.letter}: {chart.title}"
            found.append(
                ClaimFigure(
                    slug, SECTION, title, "", chart.caption, chart.panels, [], [], {}, batches, norms=norms
                )
            )
    return found
