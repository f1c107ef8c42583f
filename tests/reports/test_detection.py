"""Reports of detection runs: AP in place of top-1, the paper's AP beside ours, and the gallery."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from reports.collect import collect
from reports.figures.detections import predictions
from reports.findings.baseline import against_baseline
from reports.findings.verdicts import verdicts
from reports.frames import Frames, build_frames
from reports.numbers import EMPTY
from reports.tables.cell_tables import summary_display
from reports.tables.paper_detection import paper_detection_display
from reports.write.report_folder import build_report
from suite.config import expand
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Layer, RecordWriter
from tests.helpers.nasty_text import NASTY
from tests.helpers.records import PROVENANCE

AP = {"BN": (1.0, 1.5, 2.0), "XBN-P2-GN8": (4.0, 4.25, 5.25)}
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0 as far as a reader of reports looks").decode()


def runs_of(**changes: Any) -> list[Run]:
    content: dict[str, Any] = {
        "task": {"kind": "detection", "batch_norm": "trained"},
        "model": {"arch": "small_resnet11", "norm": [{"kind": "bn"}, {"kind": "xbn"}]},
        "data": {"name": "fashion-scenes"},
        "batch": {"global_batch_size": 2},
        "recipe": {"iterations": 6, "schedule": "constant"},
        "seeds": [0, 1, 2],
    }
    return list(expand({**content, **changes}, "detection").runs)


def write(root: Path, run: Run, ap: float, gallery: Any = None) -> Path:
    folder = root / run.folder_name
    at: dict[str, Any] = {"epoch": 1, "step": 6}
    with RecordWriter(run, folder) as writer:
        writer.start(PROVENANCE)
        writer.layers([Layer("backbone.body.bn3", 16)])
        writer.measure("loss", 1.5, split="train", **at)
        for name, value in (("ap_percent", ap), ("ap50_percent", 2 * ap), ("images_evaluated", 9)):
            writer.measure(name, value, split="val", **at)
        for name in ("esm_sigma", "esm_mu", "esm_sigma_scaled", "esm_mu_scaled"):
            writer.measure(name, [0.5 / ap], split="val", **at)
        writer.measure("images_per_s", 10.0, split="train", **at)
        writer.status("completed", evaluated_epoch=1, ap_percent=ap)
    if gallery is not None:
        RunPaths(folder).gallery.write_text(json.dumps(gallery))
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    root = tmp_path_factory.mktemp("detection")
    for run in runs_of():
        write(root, run, AP[run.norm_label][run.seed])
    return build_frames(collect([root]))


def test_verdicts_are_of_ap_paired_by_seed(frames: Frames) -> None:
    """The differences are 3, 2.75 and 3.25: their mean is 3, and t is 3 / (0.25 / √3)."""
    rows = against_baseline(frames, "BN")
    assert rows.top1_mean.tolist() == [3.0]
    assert rows.top1_verdict.tolist() == ["better"]
    (verdict,) = verdicts(frames, rows, "BN")
    assert verdict.where == "faster_rcnn-2fc small_resnet11 on fashion-scenes"
    assert "XBN-P2-GN8 beats BN by 3.00 ± 0.62 points of AP at norm batch 2" in verdict.sentences[0]


def test_the_summary_has_ap_beside_shift_and_speed_and_no_top1(frames: Frames) -> None:
    table = summary_display(frames)
    headers = [column.header for column in table.columns]
    assert {"AP (%)", "AP50 (%)", "Scaled ESM σ, common layers", "Images/s"} <= set(headers)
    assert not any("Top-1" in header or "Mask" in header for header in headers)
    cells = dict(zip(headers, table.texts[0], strict=True))
    assert cells["AP (%)"].startswith("1.5 ± 1.2")


def test_the_page_names_ap_and_no_top1_of_these_runs(tmp_path: Path) -> None:
    for run in runs_of(seeds=[0, 1]):
        write(tmp_path / "runs", run, AP[run.norm_label][run.seed])
    build_report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    before_metrics = text.partition("## Metrics")[0]
    assert "points of AP" in before_metrics
    assert "top-1" not in before_metrics.partition("## Method")[0].lower().replace("best top-1", "")


def picture(**changes: Any) -> dict[str, Any]:
    box = {"box": [1, 2, 11, 22], "name": NASTY}
    one = {"image_id": 1, "width": 40, "height": 30, "jpeg": JPEG}
    return {**one, "truth": [box], "found": [{**box, "score": 0.75}], **changes}


def test_the_gallery_is_capped_and_skips_what_is_damaged(tmp_path: Path) -> None:
    runs = runs_of(seeds=[0])
    odd = [picture(jpeg="<script>"), picture(jpeg=base64.b64encode(b"GIF89a").decode()), {"width": "x"}, 7]
    write(tmp_path, runs[0], 1.0, [picture(), *odd])
    write(tmp_path, runs[1], 2.0, [picture(found=[{"box": [0, 1], "name": "a"}] * 9) for _ in range(20)])
    first, second = predictions(build_frames(collect([tmp_path])))
    assert [len(first.pictures), len(second.pictures)] == [1, 4]
    (box,) = first.pictures[0].found
    assert (box.x, box.y, box.width, box.height, box.name, box.score) == (1, 2, 10, 20, NASTY, 0.75)
    assert second.pictures[0].found == []


def test_the_gallery_on_the_page_is_escaped(tmp_path: Path) -> None:
    write(tmp_path / "runs", runs_of(seeds=[0])[0], 1.0, [picture()])
    build_report([tmp_path / "runs"], tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert f'href="data:image/jpeg;base64,{JPEG}"' in page
    assert '<rect class="found" x="1" y="2" width="10" height="20">' in page
    assert NASTY not in page


def test_the_papers_ap_is_beside_ours_with_its_caveat(tmp_path: Path) -> None:
    detector = {"kind": "detection", "batch_norm": ["frozen", "trained"]}
    changes = {"task": detector, "data": {"name": "coco", "path": "/coco"}, "seeds": [0]}
    model = {"arch": "resnet50", "norm": [{"kind": "bn"}, {"kind": "xbn"}]}
    for run in runs_of(**changes, model=model):
        write(tmp_path, run, 26.0)
    table = paper_detection_display(build_frames(collect([tmp_path])))
    assert table is not None
    assert [row[:5] for row in table.texts[:3]] == [
        ["2", "BN", "25.35 (paper)", "BN", "1"],
        ["2", "BN", "25.35 (paper)", "BN-frozen", "1"],
        ["4", "BN", "29.33 (paper)", EMPTY, EMPTY],
    ]
    assert table.texts[0][5].startswith("26.00")
    assert "hardly come from the released configs" in table.notes[-1]
