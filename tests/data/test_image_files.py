"""Which files are images: as torchvision's ImageFolder lists them, and the same for both loaders."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from suite.data import folder_loader
from suite.data.index import SUFFIXES, scan
from suite.data.loader import MEAN, STD
from suite.experiment import DataSpec

COLOUR = (200, 120, 40)
FORMATS = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm", "WEBP": "webp"}


def picture(side: int = 24) -> Image.Image:
    return Image.new("RGB", (side, side), COLOUR)


def test_the_list_is_that_of_image_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "train"
    for number, suffix in enumerate(SUFFIXES):
        for inner in ("", "deeper/", "deeper/still/", "deeper-too/"):
            path = root / "cat" / f"{inner}{9 - number}{suffix.decode()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    (root / "dog" / "folder.jpg").mkdir(parents=True)
    (root / "dog" / "folder.jpg" / "1.jpg").write_bytes(b"x")
    (root / "dog" / "2.JPG").write_bytes(b"x")
    (root / "dog" / "elsewhere").symlink_to(root / "cat" / "deeper")
    for name in ("a.gif", "b.gif", "list.txt", "README"):
        (root / "dog" / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        index = scan(tmp_path, "train")
    theirs = torchvision.datasets.ImageFolder(root)
    assert [(index.path(i), int(index.labels_N[i])) for i in range(len(index))] == theirs.samples
    assert len(index) == 9 * 4 + 2 + 9 * 2
    (warning,) = [record.message for record in caplog.records]
    assert f"{root}: 4 files are no images and are ignored (2 .gif, 1 " in warning


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(b"x")
    (folder / "again").symlink_to(folder)
    assert len(scan(tmp_path, "train")) == 1


@pytest.mark.parametrize("named", ["by its format", "jpg"])
@pytest.mark.parametrize("loader", ["dali", "torchvision"])
def test_both_loaders_decode_every_format_whatever_the_name(tmp_path: Path, loader: str, named: str) -> None:
    folder = tmp_path / "val" / "cat"
    folder.mkdir(parents=True)
    (tmp_path / "val" / "dog").mkdir()
    picture().save(tmp_path / "val" / "dog" / "0.png")
    for kind, suffix in FORMATS.items():
        options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
        name = f"{kind}.{suffix if named == 'by its format' else named}"
        picture().save(folder / name, kind, **options)
    frames = [picture(), Image.new("RGB", (24, 24), (0, 0, 0))]
    frames[0].save(folder / "animated.jpg", "GIF", save_all=True, append_images=frames[1:])
    picture().save(folder / "still.jpg", "GIF")
    data = DataSpec(name="x", path=str(tmp_path), num_classes=2, image_size=16, eval_resize=16, loader=loader)
    images = folder_loader(data, "val", images_per_batch=4, device=torch.device("cpu"))
    seen = torch.cat([batch.images_NCHW for batch in images])
    bad = {Path(path).name: reason for path, reason in images.bad_images.items()}
    images.close()
    assert set(bad) == {"animated.jpg", "still.jpg"}
    assert all(reason.startswith("not an image") for reason in bad.values())
    assert len(seen) == len(FORMATS) + 1
    expected = (np.array(COLOUR) / 255 - np.array(MEAN)) / np.array(STD)
    # A level of 255 or two, of the lossy formats.
    assert np.abs(seen.mean(dim=(2, 3)).numpy() - expected).max() < 0.05
