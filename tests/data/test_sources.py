"""Preparing the data sets: what lands on disk, twice, at once, and what is refused."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suite.data.idx import DEBIAN_FOLDER, read_split, write_split
from suite.data.sources import (
    FASHION_CLASSES,
    SUBSET_FOLDER,
    dataset_folder,
    default_root,
    idx_folder,
    prepare,
)
from suite.errors import UserError
from suite.experiment import DataSpec


def test_subset_is_balanced_and_whole(fashion: Path) -> None:
    for split, count in (("train", 600), ("val", 100)):
        for name in FASHION_CLASSES:
            assert len(list((fashion / split / name).glob("*.jpg"))) == count


def test_jpegs_hold_the_images(fashion: Path) -> None:
    images_NHW, labels_N = read_split(SUBSET_FOLDER, "val")
    for number in (0, 17, 999):
        path = fashion / "val" / FASHION_CLASSES[labels_N[number]] / f"{number:05d}.jpg"
        with Image.open(path) as image:
            assert image.mode == "L"
            difference = np.asarray(image).astype(int) - images_NHW[number]
        assert np.abs(difference).mean() < 4  # quality 95


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_subset_is_part_of_the_real_set() -> None:
    for split in ("train", "val"):
        subset_NHW, labels_N = read_split(SUBSET_FOLDER, split)
        whole_NHW, whole_labels_N = read_split(DEBIAN_FOLDER, split)
        known = {image.tobytes(): label for image, label in zip(whole_NHW, whole_labels_N, strict=True)}
        assert all(known[i.tobytes()] == label for i, label in zip(subset_NHW, labels_N, strict=True))
        assert len({image.tobytes() for image in subset_NHW}) == len(subset_NHW)


def test_preparing_again_touches_nothing(fashion: Path) -> None:
    before = (fashion / "val").stat().st_mtime_ns
    assert prepare("fashion-mnist-7k", fashion.parent) == fashion
    assert (fashion / "val").stat().st_mtime_ns == before


def test_two_processes_at_once(tmp_path: Path) -> None:
    carried, root = tmp_path / "carried", tmp_path / "prepared"
    for folder in (carried, root):
        folder.mkdir()
    for split in ("train", "val"):
        images_NHW, labels_N = np.zeros((1000, 28, 28), np.uint8), np.arange(1000, dtype=np.uint8) % 10
        write_split(carried, split, images_NHW, labels_N)
    code = (
        "import pathlib, suite.data.sources as s\n"
        f"s.SUBSET_FOLDER = pathlib.Path({str(carried)!r})\n"
        f"print(s.prepare('fashion-mnist-7k', pathlib.Path({str(root)!r})))"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == [str(root / "fashion-mnist-7k")] * 2
    assert [path.name for path in root.iterdir()] == ["fashion-mnist-7k"]
    assert len(list(root.rglob("*.jpg"))) == 2000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet", r"set data\.path to the folder that holds train/"),
        ("synthetic", "needs no preparation"),
        ("mnist", r"needs no preparation: data\.loader: memory reads its four IDX files"),
        ("cifar", "unknown data set 'cifar'; known are imagenet, fashion-mnist"),
    ],
)
def test_refusals(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file.*fashion-mnist-7k cannot be written there"):
        prepare("fashion-mnist-7k", tmp_path / "file" / "data")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="cannot be written there: No space left on device"):
        prepare("fashion-mnist-7k", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_broken_idx_file_is_named(tmp_path: Path) -> None:
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"))
    with pytest.raises(UserError, match=r"train-images.*not a complete IDX file"):
        read_split(tmp_path, "train")


def test_default_root(monkeypatch: pytest.MonkeyPatch, fashion: Path) -> None:
    monkeypatch.setenv("SHIFTBENCH_DATA_DIR", str(fashion.parent))
    assert default_root() == fashion.parent
    assert dataset_folder(DataSpec()) == fashion
    monkeypatch.delenv("SHIFTBENCH_DATA_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_root() == Path.home() / ".cache" / "shiftbench" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says is ignored
    assert default_root() == Path.home() / ".cache" / "shiftbench" / "data"


def test_data_lie_below_the_cache_folder_and_a_refusal_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SHIFTBENCH_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "~no-such-user/cache")
    with pytest.raises(UserError, match="XDG_CACHE_HOME: that home is not known"):
        default_root()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache" / "shiftbench" / "data"
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(UserError, match="SHIFTBENCH_DATA_DIR names another folder for data"):
        prepare("fashion-mnist-7k")
    with pytest.raises(UserError, match="SHIFTBENCH_DATA_DIR names another folder for data"):
        idx_folder(DataSpec(name="mnist", num_classes=10))
    monkeypatch.setenv("SHIFTBENCH_DATA_DIR", "$NOT_SET_HERE/data")
    with pytest.raises(
        UserError, match="SHIFTBENCH_DATA_DIR: the environment variable NOT_SET_HERE is not set"
    ):
        prepare("fashion-mnist-7k")
    with pytest.raises(UserError, match=r"data\.path: that home is not known, in '~no-such-user/x'"):
        dataset_folder(DataSpec(path="~no-such-user/x"))
