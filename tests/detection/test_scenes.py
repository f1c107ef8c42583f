"""fashion-scenes: reproducible, real boxes and masks, disjoint splits."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suite.data.idx import read_split as read_idx
from suite.data.sources import SUBSET_FOLDER, prepare
from suite.detection import scenes
from suite.detection.coco import check_categories, read_split
from suite.detection.masks import mask_of
from suite.detection.scenes import GARMENTS, SCENES, SIDES, Draws, compose, enlarged, fashion_scenes, png
from suite.experiment import DataSpec

# Of the first twenty scenes of both splits, without photographs; the same on every machine.
DIGEST = "b6554a6e3f64ad2f"


@pytest.fixture(autouse=True, scope="module")
def few_scenes() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "SCENES", {"train": 20, "val": 20})
        patch.setattr(scenes, "PHOTOGRAPHS", Path("/nowhere"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare("fashion-scenes", tmp_path_factory.mktemp("scenes"))


def digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def test_the_bytes_are_the_same_on_every_machine(folder: Path) -> None:
    assert digest_of(folder) == DIGEST


def test_boxes_and_masks_are_those_of_the_garments(folder: Path) -> None:
    data = DataSpec(name="test", path=str(folder), num_classes=10)
    train, val = (read_split(data, split) for split in ("train", "val"))
    check_categories(train, val)
    assert train.category_names[0] == "t-shirt"
    for index in (train, val):
        assert len(index) == 20
        for i in range(len(index)):
            height, width = index.shape(i)
            assert SIDES[0] <= min(height, width) <= max(height, width) <= SIDES[1]
            with Image.open(index.path(i)) as image:
                assert (image.size, image.mode) == ((width, height), "RGB")
            assert GARMENTS[0] <= len(index.labels(i)) <= GARMENTS[1]
            masks = [mask_of(one, height, width, "") for one in index.segmentations(i)]
            assert np.sum(masks, axis=0).max() == 1  # of several garments at a pixel one is visible
            for mask, area, box in zip(masks, index.areas(i), index.boxes(i), strict=True):
                ys, xs = np.nonzero(mask)
                assert mask.sum() == area
                assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_a_scene_shows_its_garments_in_their_order() -> None:
    """A white garment on each scene: its pixels have one colour, and lie in its mask."""
    garments = np.zeros((4, 28, 28), np.uint8)
    garments[:, 4:24, 8:20] = 255
    scene = compose(Draws("val", 5), garments, np.array([3, 1, 4, 1]), [])
    assert scene.labels == [3, 1, 4, 1][: len(scene.labels)]
    for mask in scene.masks:
        colours = scene.image_HWC[mask]
        brightest = colours.max(axis=0)
        assert (colours == brightest).all(axis=1).mean() > 0.6


def test_no_garment_is_in_two_scenes() -> None:
    for split, count in SCENES.items():
        assert count * GARMENTS[1] <= len(read_idx(SUBSET_FOLDER, split)[1])


def test_garments_are_enlarged_bilinearly() -> None:
    garment = np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)
    resized = Image.fromarray(garment.astype(np.float32)).resize((45, 45), Image.Resampling.BILINEAR)
    assert np.abs(enlarged(garment, 45) - np.asarray(resized)).max() <= 0.51


def test_a_png_is_read_back() -> None:
    image = np.random.default_rng(1).integers(0, 256, (200, 130, 3)).astype(np.uint8)  # more than one block
    with Image.open(io.BytesIO(png(image))) as read:
        read.load()
        assert np.array_equal(np.asarray(read), image)


def test_photographs_become_backgrounds_and_each_split_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, colour in enumerate(((200, 10, 10), (10, 10, 200))):
        Image.new("RGB", (640, 400), colour).save(tmp_path / f"{number}.jpg", quality=95)
    monkeypatch.setattr(scenes, "PHOTOGRAPHS", tmp_path)
    monkeypatch.setattr(scenes, "SCENES", {"train": 2, "val": 2})
    folder = fashion_scenes(tmp_path / "draft")
    for split, channel in (("train", 0), ("val", 2)):
        with Image.open(folder / split / "00000.png") as image:
            assert np.median(np.asarray(image), axis=(0, 1)).argmax() == channel
    assert b'"backgrounds":["1.jpg"]' in (folder / "annotations/instances_val.json").read_bytes()
