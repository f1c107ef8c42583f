"""Folders in COCO's format: what is read, and what is refused."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference

from suite.detection.coco import CocoIndex, check_categories, read_split, split_files
from suite.detection.masks import mask_of
from suite.errors import UserError
from tests.helpers.coco_folder import Content, box, data_of, small_content, write_coco


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> CocoIndex:
    return read_split(data_of(write_coco(tmp_path_factory.mktemp("coco") / "set")), "train")


def test_images_and_boxes_are_those_of_the_json(index: CocoIndex) -> None:
    assert index.image_ids_N.tolist() == [10, 20, 30, 40, 50]
    assert index.shape(3) == (30, 50)
    assert Path(index.path(3)).is_file()
    assert (index.category_ids, index.category_names) == ((3, 7), ("tin", "cup"))
    assert index.boxes(3).tolist() == [[5, 6, 25.5, 16], [1, 2, 4, 6]]
    assert index.labels(3).tolist() == [1, 2]
    assert index.areas(4).tolist() == [777]
    assert index.is_crowd(1).tolist() == [True]
    assert index.segmentations(4) == [[[0, 0, 30, 0, 30, 30, 0, 30]]]
    assert index.boxes(0).shape == (0, 4)
    assert index.without_mask == 0


def test_a_part_of_the_images_keeps_its_boxes(index: CocoIndex) -> None:
    part = index.take(np.array([4, 3]))
    assert part.image_ids_N.tolist() == [50, 40]
    assert part.labels(1).tolist() == [1, 2]


def test_images_without_a_usable_box_are_not_trained_on(index: CocoIndex) -> None:
    assert index.with_boxes().image_ids_N.tolist() == [40, 50]
    with pytest.raises(UserError, match="no image has a box to train on"):
        index.take(np.array([0, 1, 2])).with_boxes()


def test_what_is_unusual_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_coco(tmp_path / "set")
    (folder / "train/030.png").unlink()
    with caplog.at_level(logging.INFO, "shiftbench"):
        read_split(data_of(folder), "train")
    for text in (
        "1 of 5 boxes mark crowds",
        "1 of 5 boxes have no area",
        "3 of 5 images have no box to train on",
        "1 of the 5 images of instances_train.json are missing, such as train/030.png",
    ):
        assert text in caplog.text, text


def test_cocos_own_layout_is_found_by_name(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "set", year="2017")
    found = read_split(data_of(folder), "val")
    assert found.file == folder / "annotations/instances_val2017.json"
    assert Path(found.path(0)) == folder / "val2017/010.png"


def test_another_layout_is_refused_with_those_that_were_looked_for(tmp_path: Path) -> None:
    looked = r"instances_val2017\.json with val2017 or annotations/instances_val\.json with val/"
    with pytest.raises(UserError, match=looked):
        split_files(tmp_path, "val")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val.json").write_text("{}")
    with pytest.raises(UserError, match="but no folder val/ with its images"):
        split_files(tmp_path, "val")


def change(part: str, place: int, **values: Any) -> Callable[[Content], object]:
    return lambda content: content[part][place].update(values)


DAMAGES: dict[str, Callable[[Content], object]] = {
    "not COCO's instances: expected a list of objects in 'annotations'": lambda c: c.pop("annotations"),
    "expected a list of objects in 'images'": lambda c: c.update(images={"a": 1}),
    "has no categories": lambda c: c.update(categories=[]),
    "the image id 40 is there 2 times": change("images", 1, id=40),
    "the image '040.png' is there 2 times": change("images", 1, file_name="040.png"),
    "the annotation id 1 is there 2 times": change("annotations", 1, id=1),
    "the category id 7 is there 2 times": change("categories", 1, id=7),
    "the category name 'cup' is there 2 times": change("categories", 1, name="cup"),
    "annotation 2 has the image 60, which 'images' does not list": change("annotations", 1, image_id=60),
    "annotation 2 has the category 4, which 'categories' does": change("annotations", 1, category_id=4),
    "annotation 2: `image_id` is '50'; expected a whole number": change("annotations", 1, image_id="50"),
    "annotation number 2: `id` is null; expected a whole number": change("annotations", 1, id=None),
    "image 40: `height` is 0; expected a whole number ≥ 1": change("images", 0, height=0),
    "image 40: `file_name` is null; expected text": change("images", 0, file_name=None),
    "annotation 2: `bbox` is .0, 0, -1, 2.; expected four numbers": change(
        "annotations", 1, bbox=[0, 0, -1, 2]
    ),
    "annotation 2: `bbox` is .0, 0, 1.; expected four numbers": change("annotations", 1, bbox=[0, 0, 1]),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_json_that_contradicts_itself_is_refused(message: str, tmp_path: Path) -> None:
    content = small_content()
    content["categories"] = [dict(one) for one in content["categories"]]
    folder = write_coco(tmp_path / "set", content, damage=DAMAGES[message])
    with pytest.raises(UserError, match=f"instances_train.json: .*{message}"):
        read_split(data_of(folder), "train")


@pytest.mark.parametrize("text", ["", "[1, 2", "not json", "[]"])
def test_a_file_that_is_no_coco_is_refused(text: str, tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "set")
    (folder / "annotations/instances_train.json").write_text(text)
    with pytest.raises(UserError, match=r"instances_train.json: is not (JSON|COCO's instances)"):
        read_split(data_of(folder), "train")


def test_other_categories_are_refused(tmp_path: Path) -> None:
    other = small_content() | {"categories": [{"id": 3, "name": "tin"}, {"id": 7, "name": "mug"}]}
    folder = write_coco(tmp_path / "set", val=other)
    with pytest.raises(UserError, match=r"has 2 categories, but data.num_classes is 80"):
        read_split(data_of(folder, 80), "train")
    train, val = (read_split(data_of(folder), split) for split in ("train", "val"))
    check_categories(train, train)
    with pytest.raises(UserError, match=r"different categories: cup \(id 7\) is in one"):
        check_categories(train, val)


def test_a_folder_without_any_of_the_images_is_refused(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "set")
    for path in (folder / "train").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"5 of the 5 images of instances_train.json are missing"):
        read_split(data_of(folder), "train")


def test_areas_and_masks_may_be_missing(tmp_path: Path) -> None:
    content = small_content()
    for key in ("area", "segmentation", "iscrowd"):
        del content["annotations"][0][key]
    index = read_split(data_of(write_coco(tmp_path / "set", content)), "train")
    assert index.areas(3).tolist() == [205, 12]
    assert index.segmentations(3)[0] is None
    assert (index.without_mask, index.take(np.array([4])).without_mask) == (1, 0)


def test_masks_are_those_of_the_coco_api() -> None:
    """Polygons, compressed and uncompressed encodings; the runs of one are written down by hand."""
    polygons = [[1.5, 1, 10, 2.2, 8, 9.5], [20, 3, 25, 3, 25, 11, 20, 11]]
    expected = reference.decode(reference.merge(reference.frPyObjects(polygons, 14, 30)))
    assert np.array_equal(mask_of(polygons, 14, 30, "here"), expected)
    rle = reference.encode(np.asfortranarray(expected))
    assert np.array_equal(mask_of({"size": [14, 30], "counts": rle["counts"].decode()}, 14, 30, ""), expected)
    runs = {"size": [2, 3], "counts": [1, 2, 2, 1]}  # down the columns, from a zero
    assert mask_of(runs, 2, 3, "here").tolist() == [[0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "`segmentation` is null; expected polygons"),
        ([[1, 2, 3, 4]], "expected polygons of three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "expected polygons of three points"),
        ({"size": [2, 4], "counts": [8]}, r"`size` is \[2, 4\], but the image's is \[2, 3\]"),
        ({"size": [2, 3], "counts": [1, 2]}, "the runs of the RLE are not those of 2 × 3 pixels"),
        ({"size": [2, 3], "counts": [7, -1]}, "the runs of the RLE are not those of 2 × 3 pixels"),
        ({"size": [2, 3], "counts": "1"}, "`counts` do not decode to 2 × 3 pixels"),
        ({"size": [2, 3], "counts": "6~"}, "`counts` do not decode to 2 × 3 pixels"),
    ],
)
def test_a_mask_that_is_none_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"annotation 5: .*{message}"):
        mask_of(segmentation, 2, 3, "annotation 5")


def test_the_library_leaves_the_environment_as_it_is() -> None:
    """It imports OpenCV, which changes LD_LIBRARY_PATH, and a fork server refuses clients of another one."""
    code = "import os; first = dict(os.environ); import suite.detection.masks; assert os.environ == first"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_cocos_size_is_read_in_seconds_and_held_in_arrays(tmp_path: Path) -> None:
    """A hundredth of COCO: its arrays take 62 bytes a box and the masks' JSON, and no more."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 480, "width": 640} for i in range(1, 1201)]
    boxes = [box(i, 1 + i % 1200, [i % 300, 2, 3, 4]) for i in range(8600)]
    content = {"images": [], "annotations": [], "categories": small_content()["categories"]}
    folder = write_coco(tmp_path / "set", content)
    (folder / "train/1.png").touch()
    content |= {"images": images, "annotations": boxes}
    (folder / "annotations/instances_train.json").write_text(json.dumps(content))
    held = read_split(data_of(folder), "train").instances
    arrays = (getattr(held, name) for name in held.__dataclass_fields__ if name != "segmentations")
    assert sum(array.nbytes for array in arrays) <= 62 * 8600
