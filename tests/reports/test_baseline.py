"""Which norm the others are compared with."""

from pathlib import Path

import pytest

from reports.collect import collect
from reports.findings.baseline import Baseline, resolve_baseline
from reports.frames import Frames, build_frames
from reports.write.render import render_html, render_markdown
from suite.errors import UserError
from tests.helpers.composed import composed
from tests.helpers.records import expand_runs, write_run

ONE_BATCH = {"global_batch_size": 64, "norm_batch_size": 4}


def frames_of(root: Path, *labels: str) -> Frames:
    for run in expand_runs(batch=ONE_BATCH, seeds=[0]):
        if run.model.norm.label in labels:
            write_run(root, run)
    return build_frames(collect([root]))


def test_bn_is_the_baseline_where_it_was_run(tmp_path: Path) -> None:
    assert resolve_baseline(frames_of(tmp_path, "BN", "GN8")) == Baseline("BN")


@pytest.mark.parametrize("wanted", ["XBN-P2-GN8", "xbn-p2-gn8", " Xbn-P2-gn8 "])
def test_a_label_is_found_in_capitals_or_not(tmp_path: Path, wanted: str) -> None:
    frames = frames_of(tmp_path, "BN", "XBN-P2-GN8")
    assert resolve_baseline(frames, wanted) == Baseline("XBN-P2-GN8")


def test_an_unknown_label_lists_those_there_are(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, "BN", "XBN-P2-GN8", "GN8")
    with pytest.raises(UserError, match=r"--baseline xbn: no run .* there are BN, XBN-P2-GN8, GN8$"):
        resolve_baseline(frames, "xbn")


def test_many_labels_are_not_all_listed(tmp_path: Path) -> None:
    norms = [{"kind": "gn", "num_groups": 2**i} for i in range(5)] + [
        {"kind": "xbn", "position": p, "bfn": b} for p in ("p1", "p2", "p3") for b in ("gn", "ln", "in")
    ]
    for run in expand_runs(model={"arch": "small_resnet20", "norm": norms}, batch=ONE_BATCH, seeds=[0]):
        write_run(tmp_path, run)
    with pytest.raises(UserError, match=r"and 2 more$"):
        resolve_baseline(build_frames(collect([tmp_path])), "bn")


def test_without_bn_nothing_is_compared_and_the_report_says_how_to(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, "XBN-P2-GN8", "GN8")
    found = resolve_baseline(frames)
    said = "BN was not run, so nothing is compared; --baseline compares with one of XBN-P2-GN8, GN8."
    assert found == Baseline(None, said)
    report = composed(tmp_path)
    for text in (render_html(report), render_markdown(report)):
        assert said in text
        assert "Accuracy against" not in text
        assert "p is that of" not in text
    assert "standing.csv" not in report.csv_files


def test_one_norm_alone_offers_no_other(tmp_path: Path) -> None:
    assert resolve_baseline(frames_of(tmp_path, "GN8")).note == "BN was not run, so nothing is compared."


def test_all_that_is_paired_follows_the_baseline(tmp_path: Path) -> None:
    frames_of(tmp_path, "BN", "XBN-P2-GN8")
    text = render_markdown(composed(tmp_path, baseline="xbn-p2-gn8"))
    assert "### Accuracy against XBN-P2-GN8" in text
    assert "- BN differs from XBN-P2-GN8 by" in text
    assert "ESM σ per layer, less XBN-P2-GN8's" in text
    assert "all comparisons with XBN-P2-GN8" in text
