"""The paper's numbers: what they are, and when they stand beside ours."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from reports.collect import collect
from reports.frames import build_frames
from reports.paper.published import load_paper, parse_paper
from reports.tables.side_by_side import paper_display
from reports.tables.table import Table
from reports.write.compare_text import beside_paper, paper_sentences, write_beside_paper
from suite.config import expand
from suite.errors import UserError
from suite.experiment import Run
from tests.helpers.records import write_run

PAPERS: dict[str, Any] = {
    "name": "imagenet",
    "model": {"arch": "resnet50", "norm": [{"kind": "bn"}, {"kind": "xbn"}]},
    "data": {"name": "imagenet", "path": "/data/imagenet"},
    "batch": {"global_batch_size": 256, "batch_size_per_gpu": 32, "norm_batch_size": 128},
    "recipe": {"epochs": 100},
    "seeds": [0, 1],
}
SERIES = """
title: T
address: A
series:
  - {id: a, experiment: A, network: n, data: d, norm: BN, label: LABEL, metric: METRIC, tolerance: 0.3,
     by: noise, values: VALUES}
"""


def runs_of(**changes: Any) -> list[Run]:
    return list(expand({**PAPERS, **changes}, name="x").runs)


def beside(root: Path) -> Table | None:
    return paper_display(build_frames(collect([root])))


def test_the_numbers_are_the_papers() -> None:
    """Against its tables, typed here a second time."""
    paper = load_paper()
    assert {one.experiment for one in paper.series} == {"A", "B", "C", "noise", "detection"}
    assert list(paper["inaccurate-estimates/train"].values.values()) == [88, 49, 20, 7, 2]
    assert list(paper["inaccurate-estimates/inference"].values.items())[2] == (21, 61)
    sizes = {32: 24.23, 128: 15.48, 256: 8.65, 512: 6.68, 1024: 4.83}
    sums = {size: sum(paper[f"small-training-sets/{size}"].values.values()) for size in sizes}
    assert sums == pytest.approx(sizes)
    assert list(paper["blocking/32"].values.values()) == [1.08, 1.35, 1.5, 1.46, 1.46]
    assert list(paper["blocking/1024"].values.values()) == [0.45, 0.40, 0.50, 0.43, 0.34]
    noise = {"bn": (76.3, 71.0, 37.5), "xbn-gn": (77.4, 75.1, 65.7), "xbn-in": (75.2, 74.6, 72.4)}
    for name, wanted in noise.items():
        values = paper[f"noise/{name}"].values
        assert (values[0], values[0.4], values[0.8]) == wanted
        assert len(values) == 9
    assert paper["detection/xbn-gn"].values == {2: 27.45, 4: 30.51, 8: 30.58}
    assert {one.label for one in paper.series if one.experiment != "detection"} == {"figure"}
    assert {one.label for one in paper.of("detection")} == {"paper"}


def test_a_series_that_the_paper_has_not_is_refused() -> None:
    with pytest.raises(KeyError):
        load_paper()["noise/ln"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"LABEL": "memory"}, "series.0.label"),
        ({"LABEL": "inferred"}, "series.0.label"),
        ({"METRIC": "bleu"}, "series.0.metric"),
        ({"VALUES": "{0.2: 1, 0.1: 2}"}, "must rise in noise"),
        ({"VALUES": "{0: 101}"}, "between 0 and 100"),
        ({"VALUES": "{}"}, "series.0.values"),
        ({"VALUES": "{0: 1}, colour: blue"}, "series.0.colour"),
        ({"address: A": ""}, "address"),
    ],
)
def test_what_is_no_such_file_is_refused(changes: dict[str, str], said: str) -> None:
    text = SERIES
    for name, value in ({"LABEL": "figure", "METRIC": "top1_percent", "VALUES": "{0: 1}"} | changes).items():
        text = text.replace(name, value)
    with pytest.raises(ValueError, match=said):
        parse_paper(text)


def test_two_of_one_name_are_refused() -> None:
    text = SERIES.replace("LABEL", "figure").replace("METRIC", "top1_percent").replace("VALUES", "{0: 1}")
    assert parse_paper(text)["a"].values == {0: 1}
    with pytest.raises(ValueError, match="ids must be unique: \\['a'\\]"):
        parse_paper(text + text[text.index("  - {id") :])


def test_the_papers_top1_stands_beside_runs_like_its_own(tmp_path: Path) -> None:
    for run in runs_of():
        top1 = {"BN": 76.0, "XBN-P2-GN64": 78.0}[run.model.norm.label] + run.seed
        write_run(tmp_path, run, top1_percent=[79.5, top1], state="completed")
    table = beside(tmp_path)
    assert table is not None
    headers = [column.header for column in table.columns]
    rows = {row[0]: dict(zip(headers, row, strict=True)) for row in table.texts}
    assert set(rows) == {"BN", "XBN-P2-GN64"}
    bn, xbn = rows["BN"], rows["XBN-P2-GN64"]
    assert bn["Top-1, paper (%)"] == "76.3 (figure)"
    assert bn["Ours, final (%)"] == "76.00 and 77.00"
    assert bn["Ours, best epoch (%)"] == "79.50 and 79.50"
    assert bn["Final less the paper's"] == "+0.20"
    assert (xbn["Top-1, paper (%)"], xbn["Final less the paper's"]) == ("77.4 (figure)", "+1.10")
    assert bn["Runs"] == "2 of 2"
    assert "figure: read off a plot of the paper, ± 0.3 points." in table.notes
    assert any("ResNet-50 is inferred" in note for note in table.notes)
    assert table.best == frozenset()


def test_what_did_not_complete_is_counted_beside_the_paper(tmp_path: Path) -> None:
    first, second = runs_of(model={"arch": "resnet50"})
    write_run(tmp_path, first, top1_percent=[75.0])
    write_run(tmp_path, second, state="diverged", top1_percent=[1.0])
    table = beside(tmp_path)
    assert table is not None
    assert [cell.replace("\u00a0", " ") for cell in table.texts[0]][2] == "1 of 2 (1 diverged)"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"arch": "resnet101"}},
        {"model": {"arch": "resnet50", "norm": {"kind": "gn"}}},
        {"model": {"arch": "resnet50", "norm": {"kind": "xbn", "position": "p1"}}},
        {"model": {"arch": "resnet50", "norm": {"kind": "xbn", "num_groups": 32}}},
        {"model": {"arch": "resnet50", "norm": {"kind": "xbn", "stem": False}}},
        {"model": {"arch": "resnet50", "bn_momentum": 0.01}},
        {"data": {"name": "imagenet", "path": "/d", "train_images": 1000}},
        {"data": {"name": "imagenet", "path": "/d", "image_size": 160}},
        {"data": {"name": "mine", "path": "/d", "num_classes": 1000}},
        {"batch": {"global_batch_size": 256, "batch_size_per_gpu": 32}},
        {"batch": {"global_batch_size": 512, "batch_size_per_gpu": 128}},
        {"recipe": {"epochs": 50}},
        {"recipe": {"epochs": 100, "label_smoothing": 0.1}},
        {"recipe": {"epochs": 100, "lr": 0.2}},
    ],
)
def test_other_set_ups_are_never_set_beside_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    for run in runs_of(**changes):
        write_run(tmp_path, run)
    assert beside(tmp_path) is None


def test_how_a_machine_goes_about_it_does_not_matter(tmp_path: Path) -> None:
    recipe = {"epochs": 90, "precision": "bf16", "channels_last": True}
    data = {"name": "imagenet", "path": "/elsewhere", "loader": "torchvision"}
    for run in runs_of(
        recipe=recipe, data=data, model={"arch": "resnet50", "norm": {"kind": "xbn", "bfn": "in"}}
    ):
        write_run(tmp_path, run)
    table = beside(tmp_path)
    assert table is not None
    assert table.texts[0][3] == "75.2 (figure)"


def test_without_a_completed_run_there_is_no_section(tmp_path: Path) -> None:
    for run in runs_of():
        write_run(tmp_path, run, state="failed")
    assert beside(tmp_path) is None


NO_TEST = "The paper names no seeds, so nothing is tested; only its top-1 without noise is shown beside runs."


def write_like_the_papers(root: Path) -> None:
    for run in runs_of():
        top1 = {"BN": 76.0, "XBN-P2-GN64": 76.5}[run.model.norm.label] + run.seed
        write_run(root, run, top1_percent=[top1])


def test_how_far_ours_are_from_the_papers_is_told(tmp_path: Path) -> None:
    write_like_the_papers(tmp_path / "runs")
    cells = beside_paper(tmp_path / "runs")
    assert paper_sentences(cells) == [
        "BN at norm batch 128: 76.00 and 77.00 in 2 seeds, on average 0.20 points above the paper's top-1 of "
        "76.3 % (figure), within its ± 0.3, the tolerance of its reading.",
        "XBN-P2-GN64 at norm batch 128: 76.50 and 77.50 in 2 seeds, on average 0.40 points below the paper's "
        "top-1 of 77.4 % (figure), beyond its ± 0.3, the tolerance of its reading.",
        "XBN-IN: no cell beside the paper's top-1 of 75.2 % (figure).",
        NO_TEST,
    ]
    markdown, csv = write_beside_paper(tmp_path / "runs", cells, tmp_path / "out")
    text = markdown.read_text()
    assert "76.3 (figure)" in text
    assert text[text.index("## By how much") :].count("\n- ") == 4
    rows = pd.read_csv(csv).set_index("norm")
    assert rows.difference.to_dict() == pytest.approx({"BN": 0.2, "XBN-P2-GN64": -0.4})
    assert set(rows.label) == {"figure"}
    assert rows.n.tolist() == [2, 2]


def test_runs_unlike_the_papers_are_one_sentence(tmp_path: Path) -> None:
    for run in runs_of(recipe={"epochs": 50}):
        write_run(tmp_path, run)
    with pytest.raises(UserError, match="no completed run matches a number of the paper"):
        beside_paper(tmp_path)


def test_a_folder_named_paper_is_compared_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_like_the_papers(tmp_path / "runs")
    first = CliRunner().invoke(app, ["compare", "runs", "paper", "--out", "out"])
    assert first.exit_code == 0, first.output
    assert "0.20 points above the paper's top-1" in " ".join(first.output.split())
    assert (tmp_path / "out" / "compare.md").exists()
    write_like_the_papers(tmp_path / "paper")
    second = CliRunner().invoke(app, ["compare", "runs", "paper"])
    assert second.exit_code == 0, second.output
    assert "equal to the last bit in all 4 pairs" in " ".join(second.output.split())
