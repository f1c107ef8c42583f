"""Which figures there are, what stands in them, and what they leave out when there is too much."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from altair import Chart

from reports.aggregate import scaling_efficiency
from reports.collect import collect
from reports.figures import Figure, Gallery, build_gallery
from reports.filters import facets
from reports.frames import NORM_FAMILIES, build_frames
from reports.theme import variants
from reports.write.render import page_figures
from tests.helpers.records import PROVENANCE, expand_runs, write_run, write_sweep

BN = {"arch": "small_resnet20", "norm": {"kind": "bn"}}
ONE_BATCH = {"global_batch_size": 64, "norm_batch_size": 4}


def gallery_of(root: Path) -> Gallery:
    return build_gallery(build_frames(collect([root])))


def figure_of(gallery: Gallery, slug: str) -> Figure:
    (found,) = [figure for figure in gallery.figures if figure.slug == slug]
    return found


def rows_of(spec: dict[str, Any], layer: int) -> list[dict[str, Any]]:
    """The data of one layer, which may stand with the layer or with all of them."""
    data = spec["layer"][layer].get("data", spec.get("data"))
    rows: list[dict[str, Any]] = spec["datasets"][data["name"]]
    return rows


def test_the_sweep_has_every_figure_that_it_has_data_for(sweep: Path) -> None:
    """And no heat map, since it has one probe. Every spec is Vega-Lite."""
    gallery = gallery_of(sweep)
    for figure in gallery.figures:
        # A row of each data set will do, and the first of panels that are alike.
        for spec in (figure.page_specs()[0], figure.file_spec()):
            Chart.from_dict(spec | {"datasets": {name: rows[:1] for name, rows in spec["datasets"].items()}})
    assert [(figure.slug, len(figure.panels)) for figure in gallery.figures] == [
        ("by-norm-batch", 3),
        ("accuracy-by-shift", 1),
        ("esm_sigma_scaled-by-depth", 3),
        ("esm_mu_scaled-by-depth", 3),
        ("accuracy-by-throughput", 1),
        ("throughput", 1),
        ("top1-by-epoch", 3),
        ("loss-by-epoch", 3),
    ]
    assert [(facet.axis, facet.values) for facet in gallery.facets] == [
        ("norm", ["BN", "XBN-P2-GN8", "GN8"]),
        ("norm_batch_size", ["4", "16", "64"]),
    ]
    assert gallery.notes == []


def test_accuracy_by_shift_has_a_mark_for_each_cell(tmp_path: Path) -> None:
    for run in expand_runs(model=BN, batch={"global_batch_size": 64, "norm_batch_size": [4, 64]}):
        if run.seed < 2:
            sigma = [{4: 2.0, 64: 1.0}[run.batch.norm] + run.seed]
            top1 = [60.0 + 10 * run.seed + run.batch.norm / 4]
            write_run(tmp_path, run, layers=["a"], esm_sigma=sigma, top1_percent=top1)
    (spec,) = figure_of(gallery_of(tmp_path), "accuracy-by-shift").page_specs()
    cells = {row["norm_batch_size"]: (row["x"], row["y"], row["seeds"]) for row in rows_of(spec, 0)}
    # 2 and 3, 1 and 2, in a quarter.
    assert cells == {4: (0.625, 66.0, 2), 64: (0.375, 81.0, 2)}


def test_the_heat_map_is_there_where_two_epochs_were_probed(tmp_path: Path) -> None:
    runs = expand_runs(batch=ONE_BATCH, seeds=[0, 1])
    for run in runs:
        layers = ["a", "b"] if run.model.norm.label != "GN8" else []
        # XBN was probed at its end alone.
        early = [[4.0, 6.0], [3.0, 5.0]] if run.model.norm.label == "BN" else []
        sigma = [1.0 + run.seed, 2.0] if layers else []
        write_run(
            tmp_path,
            run,
            layers=layers,
            esm_sigma=sigma,
            earlier_sigma=early,
            top1_percent=[50, 55, 58, 59, 60],
        )
    heat = figure_of(gallery_of(tmp_path), "esm_sigma_scaled-by-epoch")
    (panel,) = heat.panels
    assert (panel.title, panel.cell) == ("BN, norm batch 4", {"norm": "BN", "norm_batch_size": "4"})
    # A quarter of (4 + 6) / 2 and of (1.5 + 2) / 2.
    assert "mean over layers 1.25 at epoch 1 and 0.438 at epoch 5" in panel.description
    (spec,) = heat.page_specs()
    rows = rows_of(spec, 0)
    assert {(r["layer"], r["epoch"]): (r["value"], r["seeds"]) for r in rows} == {
        ("a", 1): (1, 2),
        ("b", 1): (1.5, 2),
        ("a", 2): (0.75, 2),
        ("b", 2): (1.25, 2),
        ("a", 5): (0.375, 2),
        ("b", 5): (0.5, 2),
    }
    # A cell reaches half-way to its neighbours: epochs 1, 2, 5 give 0.5 | 1.5 | 3.5 | 6.5.
    edges = {r["epoch"]: (r["left"], r["right"]) for r in rows}
    assert edges == {1: (0.5, 1.5), 2: (1.5, 3.5), 5: (3.5, 6.5)}
    assert {(r["layer"], r["bottom"], r["top"]) for r in rows} == {("a", -0.5, 0.5), ("b", 0.5, 1.5)}


def test_scaling_efficiency_is_against_the_fewest_ranks_of_the_same_cell() -> None:
    runs = pd.DataFrame(
        {
            "norm": ["BN"] * 4 + ["GN8"],
            "norm_batch_size": [4] * 4 + [4],
            "batch_size_per_gpu": [4] * 5,
            "world_size": [2, 2, 4, 8, 2],
            "value": [100.0, 300.0, 150.0, 100.0, 7.0],
        }
    )
    found = scaling_efficiency(runs, ["norm", "norm_batch_size", "batch_size_per_gpu"]).tolist()
    assert found[:4] == [0.5, 1.5, 0.75, 0.5]
    assert math.isnan(found[4])


def write_speeds(root: Path, speeds: Sequence[tuple[str, int, float, int]]) -> None:
    """(device, ranks, images/s, seed) of BN runs."""
    by_seed = {run.seed: run for run in expand_runs(model=BN, batch=ONE_BATCH, seeds=list(range(9)))}
    for number, (device, ranks, speed, seed) in enumerate(speeds):
        write_run(
            root / str(number),
            by_seed[seed],
            provenance={**PROVENANCE, "device": device, "device_type": "cuda", "world_size": ranks},
            throughput={"images_per_s": speed},
        )


def test_one_run_on_several_numbers_of_ranks_shows_how_it_scales(tmp_path: Path) -> None:
    # The very same seed twice: a copy for the accuracy, a measurement for the speed.
    write_speeds(tmp_path, [("H100", 1, 1000.0, 0), ("H100", 4, 3000.0, 0)])
    figure = figure_of(gallery_of(tmp_path), "throughput")
    assert [panel.title for panel in figure.panels] == ["Images/s per GPU, H100", "Scaling efficiency, H100"]
    rates, shares = (rows_of(spec, 1) for spec in figure.page_specs())
    assert {row["world_size"]: row["value"] for row in rates} == {1: 1000, 4: 750}
    assert {row["world_size"]: row["value"] for row in shares} == {1: 1, 4: 0.75}


def test_accuracy_by_throughput_keeps_hardware_apart(tmp_path: Path) -> None:
    write_speeds(tmp_path, [("H100", 1, 1000.0, 0), ("H200", 1, 1500.0, 1), ("H200", 1, 1700.0, 2)])
    figure = figure_of(gallery_of(tmp_path), "accuracy-by-throughput")
    assert [panel.title for panel in figure.panels] == ["1 rank of H100", "1 rank of H200"]
    speeds = [{row["x"] for row in rows_of(spec, 2)} for spec in figure.page_specs()]
    assert speeds == [{1000}, {1600}]


def test_runs_are_drawn_one_by_one_only_while_they_are_few(tmp_path: Path, monkeypatch: Any) -> None:
    for run in expand_runs(model=BN, batch={"global_batch_size": 64, "norm_batch_size": [4, 64]}):
        write_run(tmp_path, run, top1_percent=[60.0 + run.seed])
    frames = build_frames(collect([tmp_path]))
    few = figure_of(build_gallery(frames), "by-norm-batch")
    assert len(rows_of(few.page_specs()[0], 2)) == 6
    assert "each small mark is a run" in few.caption
    for module in ("charts.steps", "figures.by_steps"):
        monkeypatch.setattr(f"reports.{module}.MAX_RUN_MARKS", 5)
    many = figure_of(build_gallery(frames), "by-norm-batch")
    assert "small mark" not in many.caption
    rows = rows_of(many.page_specs()[0], 1)
    # 60, 61, 62: half = 4.302653 × 1 / √3 = 2.4841.
    assert {(r["value"], r["low"], r["high"], r["seeds"]) for r in rows} == {(61, 58.516, 63.484, 3)}
    assert {r["spread"] for r in rows} == {"95 % interval 58.52 to 63.48"}


def test_a_mark_of_two_seeds_names_both_values(tmp_path: Path) -> None:
    for run in expand_runs(model=BN, batch={"global_batch_size": 64, "norm_batch_size": [4, 64]}):
        if run.seed < (2 if run.batch.norm == 4 else 1):
            write_run(tmp_path, run, top1_percent=[62.5 - run.seed])
    figure = figure_of(gallery_of(tmp_path), "by-norm-batch")
    means = rows_of(figure.page_specs()[0], 3)
    assert {r["norm_batch_size"]: r["spread"] for r in means} == {4: "61.5 and 62.5", 64: "—"}


def test_unfinished_runs_are_drawn_as_far_as_they_got_and_capped(tmp_path: Path, monkeypatch: Any) -> None:
    for run in expand_runs(model=BN, batch=ONE_BATCH, seeds=[0, 1, 2, 3]):
        state = "completed" if run.seed == 0 else "diverged"
        write_run(tmp_path, run, state=state, top1_percent=[50.0] * (5 - run.seed), final=run.seed == 0)
    monkeypatch.setattr("reports.figures.bands.MAX_UNFINISHED", 2)
    figure = figure_of(gallery_of(tmp_path), "top1-by-epoch")
    assert "(2 of 3, those that got furthest)" in figure.caption
    (spec,) = figure.page_specs()
    rows = rows_of(spec, 3)
    drawn = {seed: [r["epoch"] for r in rows if r["seed"] == seed] for seed in (1, 2, 3)}
    assert drawn == {1: [1, 2, 3, 4], 2: [1, 2, 3], 3: []}
    assert {row["seeds"] for row in rows_of(spec, 0)} == {1}


def test_more_norm_batches_than_panels_are_told(tmp_path: Path) -> None:
    sizes = [2, 4, 8, 16, 32, 64, 128, 256]
    for run in expand_runs(model=BN, batch={"global_batch_size": 256, "norm_batch_size": sizes}, seeds=[0]):
        write_run(tmp_path, run)
    figure = figure_of(gallery_of(tmp_path), "esm_sigma_scaled-by-depth")
    drawn = [panel.cell["norm_batch_size"] for panel in figure.page_panels]
    assert drawn == ["2", "4", "16", "32", "128", "256"]
    assert len(figure.page_specs()) == 6
    assert "The page has 6 of 8 norm batches, the files have all." in figure.caption
    titles = [chart["title"] for chart in figure.file_spec()["concat"]]
    assert titles == [f"Norm batch {size}" for size in sizes]


def runs_frame(norms: Sequence[tuple[str, str, int]]) -> pd.DataFrame:
    """Runs of (family, norm, completed runs), and one failed run of each."""
    rows = [
        {
            "norm_family": family,
            "norm": norm,
            "state": "completed" if i < done else "failed",
            "seed": i,
            "has_bn": family != "batch_free",
        }
        for family, norm, done in norms
        for i in range(done + 1)
    ]
    axes = {"norm_batch_size": 4, "arch": "net", "data": "set", "settings": "", "global_batch_size": 4}
    families = pd.CategoricalDtype(NORM_FAMILIES, ordered=True)
    return pd.DataFrame(rows).assign(**axes).astype({"norm_family": families})


def test_of_many_norms_charts_draw_bn_and_those_with_most_runs() -> None:
    runs = runs_frame(
        [
            *(("bn", "BN", 0), ("xbn", "XBN-a", 2), ("xbn", "XBN-b", 9)),
            *(("batch_free", "GN8", 5), ("batch_free", "IN", 1)),
        ]
    )
    palette = variants(runs, limit=3)
    assert [(v.label, v.index) for v in palette] == [("BN", 0), ("XBN-b", 1), ("GN8", 2)]
    (facet,) = facets(runs, palette)
    assert (facet.values, facet.total) == (["BN", "XBN-b", "GN8"], 5)


def test_a_thousand_norms_give_charts_and_say_what_they_leave_out(tmp_path: Path) -> None:
    (run,) = expand_runs(model=BN, batch=ONE_BATCH, seeds=[0])
    write_run(tmp_path, run)
    frames = build_frames(collect([tmp_path]))
    names = ["BN", *(f"XBN-{i}" for i in range(1, 1000))]
    many = frames.runs.loc[frames.runs.index.repeat(len(names))].reset_index(drop=True)
    many = many.assign(norm=names, run=range(len(names)), run_id=names, norm_family=["bn"] + ["xbn"] * 999)
    gallery = build_gallery(replace(frames, runs=many))
    assert gallery.notes[0] == (
        "Charts and filters have 24 of 1000 norms: BN, and those with the most completed runs."
    )
    assert len(figure_of(gallery, "by-norm-batch").shown) == 24
    assert max(len(rows_of(s, 0)) for f in gallery.figures for s in f.page_specs()) <= 24


def test_beyond_its_room_the_page_has_all_of_the_first_context_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"arch": ["small_resnet11", "small_resnet20"], "norm": {"kind": "bn"}}
    for run in expand_runs(model=model, batch=ONE_BATCH, seeds=[0, 1]):
        write_run(tmp_path, run)
    frames = build_frames(collect([tmp_path]))
    everything = build_gallery(frames)
    assert everything.notes == []
    first = [f for f in everything.figures if f.cell == {"arch": "small_resnet11"}]
    monkeypatch.setattr("reports.figures.MAX_CHARTS", sum(len(f.panels) for f in first) + 3)
    gallery = build_gallery(frames)
    # Files have them all.
    assert [f.title for f in gallery.figures] == [f.title for f in everything.figures]
    assert {figure.title for figure in gallery.figures if figure.on_page} == {
        *(figure.title for figure in first),
        "Accuracy and shift by norm batch: small_resnet20",
    }
    (note,) = gallery.notes
    assert "Depth profile of scaled ESM σ: small_resnet20" in note
    monkeypatch.setattr("reports.figures.MAX_CONTEXTS", 1)
    assert "first 1 of 2 combinations" in build_gallery(frames).notes[0]


def test_probes_at_every_epoch_give_a_panel_for_each_norm_and_norm_batch(tmp_path: Path) -> None:
    batch = {"global_batch_size": 64, "norm_batch_size": [4, 64]}
    write_sweep(tmp_path, probe_epochs=True, batch=batch, seeds=[0, 1])
    heat = figure_of(gallery_of(tmp_path), "esm_sigma_scaled-by-epoch")
    assert [panel.title for panel in heat.panels] == [
        f"{norm}, norm batch {size}" for size in (4, 64) for norm in ("BN", "XBN-P2-GN8")
    ]


def test_a_norm_without_a_norm_batch_is_in_every_panel_and_a_level_line(tmp_path: Path) -> None:
    """GN at 80 and 82 %, beside BN at norm batches 4, 16 and 64: hidden in none of them."""
    top1 = {"BN": [60.0, 62.0], "GN8": [80.0, 82.0]}
    norms = {"arch": "small_resnet20", "norm": [{"kind": "bn"}, {"kind": "gn", "num_groups": 8}]}
    for run in expand_runs(model=norms, seeds=[0, 1]):
        layers = ["a"] if run.model.norm.label == "BN" else []
        write_run(tmp_path, run, layers=layers, top1_percent=[top1[run.model.norm.label][run.seed]])
    gallery = gallery_of(tmp_path)
    curves = figure_of(gallery, "top1-by-epoch")
    assert [panel.title for panel in curves.panels] == ["Norm batch 4", "Norm batch 16", "Norm batch 64"]
    for panel, spec in zip(curves.panels, curves.page_specs(), strict=True):
        gn = [row for row in rows_of(spec, 0) if row["norm"] == "GN8"]
        assert [(row["value"], row["low"], row["high"]) for row in gn] == [(81, 80, 82)]
        assert "BN, GN8" in panel.description
    by_batch, by_shift = (
        figure_of(gallery, slug).page_specs()[0] for slug in ("by-norm-batch", "accuracy-by-shift")
    )
    for spec in (by_batch, by_shift):
        (band,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "rect"]
        assert "x" not in band["encoding"]  # right across
        (level,) = spec["datasets"][band["data"]["name"]]
        assert (level["norm"], level["value"], level["low"], level["high"]) == ("GN8", 81, 80, 82)
    # Its marks stand at every norm batch, so that a pointer meets them.
    marks = by_batch["datasets"][by_batch["layer"][-1]["data"]["name"]]
    assert [(row["norm"], row["norm_batch_size"]) for row in marks] == [("GN8", 4), ("GN8", 16), ("GN8", 64)]


def test_models_of_one_kind_share_a_figure_on_the_page(tmp_path: Path) -> None:
    model = {"arch": ["resnet101", "resnet50"], "norm": {"kind": "bn"}}
    for run in expand_runs(model=model, batch=ONE_BATCH, seeds=[0]):
        write_run(tmp_path, run)
    figures = gallery_of(tmp_path).figures
    groups, specs = page_figures(figures)
    titles = [group.title for group in groups]
    assert len(titles) == len(set(titles)) + 1  # the first model's profile opens the page
    (curves,) = [group for group in groups if group.title == "Evaluation top-1 by epoch"]
    # In the order in which people count.
    assert [panel.title for panel in curves.panels] == [
        "resnet50: Norm batch 4",
        "resnet101: Norm batch 4",
    ]
    assert [panel.cell["arch"] for panel in curves.panels] == ["resnet50", "resnet101"]
    assert [slug for _, slug in curves.files] == ["top1-by-epoch-resnet50", "top1-by-epoch-resnet101"]
    assert len(specs) == sum(len(figure.panels) for figure in figures)
