"""The claims in a report: their section, table, figures, and the paper's points beside ours."""

from pathlib import Path

import pytest

from reports.claims import claim_figures, gather
from reports.claims.claim_charts import ClaimFigure
from reports.write.page import Report, render_html, render_markdown
from tests.helpers.claim_folders import GNBN, mlp_runs, resnet_runs, write
from tests.helpers.composed import composed

XBN = {"kind": "xbn", "position": "p2", "bfn": "gn", "num_groups": 8}
TRAINING, INFERENCE = [80.0, 40.0, 20.0], [90.0, 85.0, 30.0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    root = tmp_path_factory.mktemp("claims")
    made = []
    for run in mlp_runs((32,), ({"kind": "bn"}, GNBN)):
        layers = 20 if run.model.norm.kind == "bn" else 10
        heights = [1.0 + layer for layer in range(layers)]
        made.append(write(root, run, training=TRAINING, inference=INFERENCE, esm_sigma=heights))
    noisy = [
        write(root, run, layers=["fc"], esm_sigma=[1.0], noise={0.0: 80.0, 0.5: 40.0})
        for run in resnet_runs(({"kind": "bn"},))
    ]
    return {"A": made[:3], "B": made[:3], "C": made, "D": noisy}


@pytest.fixture(scope="module")
def report(folders: dict[str, list[Path]]) -> Report:
    roots = sorted({folder for some in folders.values() for folder in some})
    return composed(*roots, claims=folders, command="shiftbench reproduce A B C D")


def test_the_report_has_a_section_on_the_claims(report: Report) -> None:
    html, markdown = render_html(report), render_markdown(report)
    assert (
        '<h2 id="claims">The paper&#39;s claims</h2>' in html or '<h2 id="claims">The paper\'s claims' in html
    )
    assert "## The paper's claims" in markdown
    assert "shiftbench reproduce A B C D" in markdown
    for text in (html, markdown):
        assert "90.0, epoch 11 (figure)" in text
        assert "read off a plot of the paper" in text
    assert report.claim_table in report.tables()
    assert {figure.slug for figure in report.figures if figure.slug.startswith("claim-")} == {
        "claim-a-error-by-epoch",
        "claim-b-esm-by-layer",
        "claim-c-esm-by-layer",
        "claim-d-top1-by-noise",
    }


def test_the_table_has_a_headline_with_the_verdict_and_a_row_for_each_check(report: Report) -> None:
    table = report.claim_table
    assert table is not None
    headlines = [row for row in table.texts if not row[3]]
    assert [(row[0], row[-1]) for row in headlines] == [
        (result.claim.letter, result.verdict) for result in report.claims
    ]
    assert len(table.texts) == sum(1 + len(result.checks) for result in report.claims)
    assert table.breaks == {table.texts.index(row) for row in headlines[1:]}
    assert all(result.evidence in table.notes for result in report.claims)


def test_a_report_without_claims_has_no_word_of_them(folders: dict[str, list[Path]]) -> None:
    made = composed(folders["A"][0])
    assert (made.claims, made.claim_table) == ([], None)
    assert 'id="claims"' not in render_html(made)
    assert "The paper's claims" not in render_markdown(made)


def figures(folders: dict[str, list[Path]], letter: str) -> list[ClaimFigure]:
    evidence = gather(letter, folders[letter])
    assert evidence.frames is not None
    found = claim_figures([evidence], evidence.frames.runs)
    assert all(isinstance(figure, ClaimFigure) for figure in found)
    return found  # type: ignore[return-value]


def test_our_means_and_the_papers_points_stand_side_by_side(folders: dict[str, list[Path]]) -> None:
    (figure,) = figures(folders, "A")
    ours, papers = figure.file_spec()["datasets"].values()
    assert [row["value"] for row in ours if row["line"] == "Training"] == TRAINING
    points = {row["x"]: row["value"] for row in papers if row["line"] == "Inference mode"}
    assert points == {1: 90, 11: 90, 21: 61, 31: 21, 41: 4}
    hollow = figure.file_spec()["concat"][0]["layer"][-1]["mark"]
    assert hollow["filled"] is False


def test_noise_is_drawn_relative_to_none(folders: dict[str, list[Path]]) -> None:
    (figure,) = figures(folders, "D")
    ours, papers = figure.file_spec()["datasets"].values()
    assert [(row["x"], row["value"]) for row in ours] == [(0, 100), (0.5, 50)]
    assert {row["x"]: row["value"] for row in papers}[0.5] == pytest.approx(100 * 67.4 / 76.3, rel=1e-4)


def test_each_set_size_has_a_panel_with_both_norms_and_both_papers_curves(
    folders: dict[str, list[Path]],
) -> None:
    (figure,) = figures(folders, "C")
    assert [panel.title for panel in figure.panels] == ["32 images"]
    ours, papers = figure.file_spec()["datasets"].values()
    assert {row["line"] for row in ours} == {row["line"] for row in papers} == {"BN", "XBN-P2-GN10"}


def test_norm_batches_have_a_figure_each_of_top1_and_shift_and_gn_is_a_level_line(tmp_path: Path) -> None:
    top1 = {("bn", 2): 50.0, ("bn", 32): 70.0, ("xbn", 2): 60.0, ("xbn", 32): 72.0, ("gn", 32): 40.0}
    runs = resnet_runs(({"kind": "bn"}, XBN, {"kind": "gn", "num_groups": 8}), norm_batches=(2, 32))
    made = []
    for run in runs:
        kind, batch = run.model.norm.kind, run.batch.norm
        layers = {"bn": ["bn1", "fc"], "xbn": ["fc"], "gn": []}[kind]
        sigma = [9.0, 4.0 / batch][-len(layers) :] if layers else []
        value = top1[kind, batch] + run.seed
        made.append(write(tmp_path, run, layers=layers, esm_sigma=sigma, top1_percent=value))
    accuracy, shift = figures({"E": made}, "E")
    assert (accuracy.slug, shift.slug) == ("claim-e-top1-by-norm-batch", "claim-e-esm-by-norm-batch")
    assert points(accuracy) == {
        "BN": {2: (51, 50, 52), 32: (71, 70, 72)},
        "XBN-P2-GN8": {2: (61, 60, 62), 32: (73, 72, 74)},
        "GN8": {2: (41, 40, 42), 32: (41, 40, 42)},
    }
    # The layer that both have alone: BN's own would lie higher.
    assert points(shift)["BN"] == points(shift)["XBN-P2-GN8"] == {2: (2, 2, 2), 32: (0.125, 0.125, 0.125)}
    assert "GN8" not in points(shift)
    assert "Hollow" not in accuracy.caption


def test_positions_are_drawn_with_a_line_for_each_norm(tmp_path: Path) -> None:
    sites = [{**XBN, "position": p} for p in ("p1", "p2", "p3")] + [
        {"kind": "xbn", "position": p, "bfn": "ln"} for p in ("p1", "p3")
    ]
    names = ("XBN-P1-GN8", "XBN-P2-GN8", "XBN-P3-GN8", "XBN-P1-LN", "XBN-P3-LN")
    made = []
    for run in resnet_runs(sites):
        top1 = 60.0 + names.index(run.model.norm.label)
        made.append(write(tmp_path, run, layers=["fc"], esm_sigma=[1.0], top1_percent=top1))
    (figure,) = figures({"F": made}, "F")
    assert points(figure) == {
        "GN": {1: (60, 60, 60), 2: (61, 61, 61), 3: (62, 62, 62)},
        "LN": {1: (63, 63, 63), 3: (64, 64, 64)},
    }


def points(figure: ClaimFigure) -> dict[str, dict[float, tuple[float, float, float]]]:
    """By line and x: mean, lowest, highest."""
    (rows,) = figure.file_spec()["datasets"].values()
    found: dict[str, dict[float, tuple[float, float, float]]] = {}
    for row in rows:
        found.setdefault(row["line"], {})[row["x"]] = (row["value"], row["low"], row["high"])
    return found


def test_the_layers_of_a_blocked_network_are_drawn_by_epoch(tmp_path: Path) -> None:
    made = []
    for run in mlp_runs((32,), ({"kind": "bn"}, GNBN)):
        layers = 20 if run.model.norm.kind == "bn" else 10
        early = {5: [2.0 + run.seed + layer for layer in range(layers)]}
        made.append(write(tmp_path, run, esm_sigma=[1.0] * layers, earlier=early))
    by_layer, by_epoch = figures({"C": made}, "C")
    assert (by_layer.slug, by_epoch.slug) == ("claim-c-esm-by-layer", "claim-c-esm-by-epoch")
    assert [panel.title for panel in by_epoch.panels] == ["BN, 32 images", "XBN-P2-GN10, 32 images"]
    of_bn, of_gnbn = by_epoch.file_spec()["datasets"].values()
    # GNBN has BN in the first of each pair; of three seeds the middle one is the mean.
    drawn = {(row["line"], row["x"]): row["value"] for row in of_gnbn}
    assert (drawn["layer 0", 5], drawn["layer 18", 5], drawn["layer 18", 20]) == (3.0, 12.0, 1.0)
    # The layers that both have, a colour for each.
    assert {row["line"] for row in of_bn} == {row["line"] for row in of_gnbn}
    assert max(row["value"] for row in of_bn) == 21.0
    assert len({row["line"] for row in of_bn}) <= 8


def test_no_filter_of_the_page_acts_on_a_claims_figure(folders: dict[str, list[Path]]) -> None:
    (figure,) = figures(folders, "C")
    assert figure.holds == {"norm": ["BN", "XBN-P2-GN10"], "norm_batch_size": ["32"]}
    (spec,) = figure.page_specs()
    assert {one["name"] for one in spec["params"]} == {"shown_norm", "shown_norm_batch_size"}
    assert not any("transform" in layer for layer in spec["layer"])
