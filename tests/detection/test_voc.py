"""Pascal VOC to COCO's format, against values worked out by hand."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from suite.detection.coco import read_split
from suite.detection.voc import import_voc
from suite.errors import UserError
from tests.helpers.coco_folder import data_of
from tests.helpers.command_line import shiftbench

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"""
XML = "<annotation><size><width>60</width><height>40</height></size>{objects}</annotation>"


def write_voc(folder: Path) -> Path:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    cat = OBJECT.format(name="cat", difficult=0, xmin=1, ymin=1, xmax=60, ymax=40)
    bird = OBJECT.format(name="bird", difficult=1, xmin=11, ymin=5.5, xmax=20, ymax=9.5)
    for stem, objects in (("a", cat + bird), ("b", ""), ("c", cat)):
        (folder / f"Annotations/{stem}.xml").write_text(XML.format(objects=objects))
        Image.new("RGB", (60, 40)).save(folder / f"JPEGImages/{stem}.jpg")
    (folder / "ImageSets/Main/trainval.txt").write_text("a\nb\n")
    (folder / "ImageSets/Main/test.txt").write_text("c\n")
    (folder / "ImageSets/Main/train.txt").write_text("b\n")
    return folder


def test_boxes_count_from_zero_and_difficult_ones_are_crowds(tmp_path: Path) -> None:
    target = tmp_path / "out/coco"
    done = shiftbench("data", "import", "voc", str(write_voc(tmp_path / "VOC2007")), str(target))
    assert done.returncode == 0, done.stderr
    assert "train: 2 images, 2 boxes, 1 of them difficult: written as crowds" in done.stdout
    train, val = (read_split(data_of(target, 20), split) for split in ("train", "val"))
    assert train.boxes(0).tolist() == [[0, 0, 60, 40], [10, 4.5, 20, 9.5]]
    assert [train.category_names[label - 1] for label in train.labels(0)] == ["cat", "bird"]
    assert train.areas(0).tolist() == [2400, 50]
    assert train.is_crowd(0).tolist() == [False, True]
    assert (train.shape(0), len(train), len(val), len(train.labels(1))) == ((40, 60), 2, 1, 0)
    assert Path(val.path(0)).read_bytes() == (tmp_path / "VOC2007/JPEGImages/c.jpg").read_bytes()
    assert json.loads((target / "annotations/instances_val.json").read_text())["categories"][19]["id"] == 20


def test_without_a_test_list_val_is_evaluated(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "VOC2012")
    (folder / "ImageSets/Main/test.txt").rename(folder / "ImageSets/Main/val.txt")
    assert import_voc(folder, tmp_path / "coco") == {"train": (1, 0, 0), "val": (1, 1, 0)}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "ImageSets/Main/test.txt",
            None,
            r"not a folder of Pascal VOC: expected trainval\.txt and test\.txt or",
        ),
        ("ImageSets/Main/test.txt", "c c", r"test\.txt: expected names of images, each once"),
        ("Annotations/c.xml", None, r"c\.xml: is missing, but an image list names it"),
        ("Annotations/c.xml", "<annotation>", r"c\.xml: not an annotation of Pascal VOC: no element"),
        ("Annotations/c.xml", "<annotation/>", "it has no size/height"),
        (
            "Annotations/c.xml",
            XML.format(objects="<object><name>cup</name></object>"),
            "'cup' is none of the 20",
        ),
        ("JPEGImages/c.jpg", None, r"c\.jpg: is missing, but c\.xml describes it"),
    ],
)
def test_a_folder_that_is_no_voc_is_refused(
    name: str, text: str | None, message: str, tmp_path: Path
) -> None:
    folder = write_voc(tmp_path / "VOC")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        import_voc(folder, tmp_path / "coco")
    assert not (tmp_path / "coco").exists()


def test_an_existing_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}: exists; name a new folder"):
        import_voc(write_voc(tmp_path / "VOC"), tmp_path)
