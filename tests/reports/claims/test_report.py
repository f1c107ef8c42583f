"""The claims in a report: their section, table, figures, and the paper's points beside ours."""

import hashlib
from pathlib import Path

import pytest

from reports.claims import claim_figures, gather, load_registration, register
from reports.claims.claim_charts import ClaimFigure
from reports.claims.registration import COPY, FILE
from reports.write.page import Report
from reports.write.render import render_html, render_markdown
from suite.errors import UserError
from tests.helpers.claim_folders import GNBN, mlp_runs, resnet_runs, write
from tests.helpers.composed import composed

XBN = {"kind": "xbn", "position": "p2", "bfn": "gn", "num_groups": 8}
TRAINING, INFERENCE = [80.0 - 5 * epoch for epoch in range(11)], [90.0] * 10 + [40.0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    root = tmp_path_factory.mktemp("claims")
    made = []
    for run in mlp_runs((32,), ({"kind": "bn"}, GNBN)):
        layers = 20 if run.model.norm.kind == "bn" else 10
        heights = [1.0 + layer for layer in range(layers)]
        made.append(write(root, run, training=TRAINING, inference=INFERENCE, esm_sigma=heights))
    noisy = [
        write(root, run, layers=["fc"], esm_sigma=[1.0], noise={0.0: 80.0, 0.1: 60.0, 0.2: 40.0})
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
    # The first screen says what came of each claim; the seeds are all alike, so that three are too few.
    headline = "A is inconclusive (3 seeds)"
    assert report.claims[0].headline == headline
    assert (
        html.index(f"<strong>{headline}</strong>")
        < html.index("every comparison in a sentence")
        < html.index('id="claims"')
    )
    assert markdown.index("A is inconclusive") < markdown.index("## The paper's claims")
    assert "shiftbench reproduce A B C D" in markdown
    for text in (html, markdown):
        assert "41.0, epoch 11 (figure)" in text
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
        (result.letter, result.verdict) for result in report.claims
    ]
    assert len(table.texts) == sum(1 + len(one.checks) + len(one.shown) for one in report.claims)
    assert table.breaks == {table.texts.index(row) for row in headlines[1:]}
    assert all(result.evidence in table.notes for result in report.claims)
    beside = [row for row in table.texts if row[-1] == "shown"]
    assert "bias-corrected estimates, epoch 10" in beside[0][1]


def test_each_result_carries_the_hash_of_the_rules_and_the_report_prints_it(report: Report) -> None:
    sha256 = hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert {result.sha256 for result in report.claims} == {sha256}
    for text in (render_html(report), render_markdown(report)):
        assert f"configs/claims.yaml with SHA-256 {sha256}" in text


def test_runs_that_were_made_under_other_rules_are_refused(tmp_path: Path) -> None:
    runs = mlp_runs()
    folders = [write(tmp_path, run, training=TRAINING, inference=INFERENCE) for run in runs]
    register(tmp_path)
    assert gather("A", folders).num_completed == 3
    copy = tmp_path / COPY
    copy.write_text(copy.read_text().replace("bound: 20", "bound: 19"))
    for refused in (lambda: composed(*folders, claims={"A": folders}), lambda: register(tmp_path)):
        with pytest.raises(UserError, match=r"claims\.yaml: differs from .*: restore it, or choose another"):
            refused()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("measure: inference_gap", "measure: gap", r"measure is 'gap'; expected one of inference_gap"),
        ("bound: 20", "bound: high", r"claims\.A\.checks\.0\.bound: expected a number, got 'high'"),
        ("first_seed: 1000", "first_seed: 890", r"claims\.A: seed 900 was looked at before"),
        ("looks: [6, 12, 24]", "looks: [12, 6]", r"looks must rise, got \[12, 6\]"),
        ("{epoch: 10}", "{epochs: 10}", r"inference_gap takes the arguments epoch; got epochs"),
        ("scope: all", "scope: some", r"of\.scope: expected all or common, got 'some'"),
        ("p_per_look: 0.018", "p_per_look: 0.02", r"p_per_look is 0\.02, but the rules .* use 0\.018"),
        ("  F:\n", "  Z:\n", r"claims\.F is missing"),
        (
            "experiment_sha256: 5a85",
            "experiment_sha256: 5a86",
            r"claims\.A\.experiment_sha256: mlp-full-batch\.yaml has changed since it was registered",
        ),
        ("judged: false}", "judged: false, margn: 3}", r"margn: unknown key; did you mean 'margin'"),
    ],
)
def test_a_malformed_registration_is_refused_with_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(FILE.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message) as refused:
        load_registration(path)
    assert str(refused.value).startswith(str(path))


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


def test_noise_is_drawn_relative_to_none_on_all_layers_and_on_common_ones(
    folders: dict[str, list[Path]],
) -> None:
    (figure,) = figures(folders, "D")
    assert [panel.title for panel in figure.panels] == [
        "Noise on all BN layers",
        "Noise on the BN layers that all have",
    ]
    ours, papers, common = figure.file_spec()["datasets"].values()
    assert [(row["x"], row["value"]) for row in ours] == [(0, 100), (0.1, 75), (0.2, 50)]
    assert {row["x"]: row["value"] for row in papers}[0.5] == pytest.approx(100 * 67.4 / 76.3, rel=1e-4)
    assert "XBN" not in {row["line"] for row in common}


def test_each_set_size_has_a_panel_with_both_norms_and_both_papers_curves(
    folders: dict[str, list[Path]],
) -> None:
    (figure,) = figures(folders, "C")
    assert [panel.title for panel in figure.panels] == ["32 images"]
    ours, papers = figure.file_spec()["datasets"].values()
    assert {row["line"] for row in ours} == {row["line"] for row in papers} == {"BN", "XBN-P2-GN10"}


def test_small_batches_have_a_figure_of_accuracy_by_shift(tmp_path: Path) -> None:
    runs = resnet_runs(({"kind": "bn"}, XBN), norm_batches=(2,))
    made = []
    for run in runs:
        is_bn = run.model.norm.kind == "bn"
        layers = ["bn1", "fc"] if is_bn else ["fc"]
        # The layer that both have alone counts: BN's own would lie higher.
        sigma = [9.0, 4.0 - run.seed][-len(layers) :]
        made.append(write(tmp_path, run, layers=layers, esm_sigma=sigma, top1_percent=50.0 + run.seed))
    (figure,) = figures({"E": made}, "E")
    assert figure.slug == "claim-e-top1-by-shift"
    expected = {1.0: (52, 52, 52), 1.5: (51, 51, 51), 2.0: (50, 50, 50)}
    assert points(figure) == {"BN": expected, "XBN-P2-GN8": expected}


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
