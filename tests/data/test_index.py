"""Listing a folder, and refusing one that is no data set."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from suite.data import check_data, steps_per_epoch, train_loader, val_loader
from suite.data.index import scan
from suite.errors import UserError
from suite.experiment import DataSpec, Run

MakeRun = Callable[..., Run]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_scan_orders_by_class_and_name(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/2.JPEG", "train/b/1.jpg", "train/ä/x.PNG", "train/a/é.jpeg")
    touch(tmp_path, "train/a/notes.txt", "train/a/.hidden.jpg", "train/.cache/1.jpg", "train/list.txt")
    index = scan(tmp_path, "train")
    assert index.classes == ("a", "b", "ä")
    assert [index.path(i) for i in range(len(index))] == [
        str(tmp_path / "train" / name) for name in ("a/é.jpeg", "b/1.jpg", "b/2.JPEG", "ä/x.PNG")
    ]
    assert index.labels_N.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"has no folder train/; expected train/CLASS"),
        (["val/a/1.jpg"], r"has no folder train/"),
        (["train/list.txt"], r"train: has no class folders"),
        (["train/a/1.jpg", "train/empty/readme.txt"], r"train/empty: a class folder without images"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=message):
        scan(tmp_path, "train")


def test_missing_folder(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "gone", 2)
    with pytest.raises(UserError, match=r"data\.path: .*gone is not a folder"):
        steps_per_epoch(run)


def test_missing_validation_folder(tmp_path: Path, make_run: MakeRun) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    with pytest.raises(UserError, match=r"has no folder val/"):
        val_loader(
            make_run(tmp_path, 2), images_per_batch=2, rank=0, world_size=1, device=torch.device("cpu")
        )


def test_number_of_classes(pictures: Path, make_run: MakeRun) -> None:
    with pytest.raises(UserError, match=r"train: has 3 class folders, but data.num_classes is 4"):
        train_loader(make_run(pictures, 4), start_step=0, rank=0, world_size=1, device=torch.device("cpu"))


def test_classes_of_the_splits_differ(tmp_path: Path, make_run: MakeRun) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/c/1.jpg")
    with pytest.raises(UserError, match=r"different class folders: b is in one only"):
        steps_per_epoch(make_run(tmp_path, 2))


TRAIN = [f"train/{name}/{number}.jpg" for name in "ab" for number in range(4)]


@pytest.mark.parametrize(
    ("files", "data", "message"),
    [
        ([], {}, r"has no folder train/"),
        (TRAIN[:7], {}, r"global_batch_size 8 exceeds the 7 training images"),
        (TRAIN, {"train_images": 9}, r"train_images is 9, but .* has only 8"),
        (TRAIN, {}, r"has no folder val/"),
        ([*TRAIN, "val/list.txt"], {}, r"is in one only"),
        ([*TRAIN, "val/a/1.jpg", "val/b/list.txt"], {}, r"val/b: a class folder without images"),
        ([*TRAIN, "train/c/list.txt", "val/a/1.jpg"], {}, r"train/c: a class folder without images"),
        ([*TRAIN, "val/a/1.jpg", "val/c/1.jpg"], {}, r"different class folders: b is in one only"),
        ([*TRAIN, "val/a/1.jpg"], {}, r"different class folders: b is in one only"),
        ([*TRAIN, "train/c/1.jpg", "val/a/1.jpg"], {}, r"train: has 3 class folders, .*num_classes is 2"),
        ([*TRAIN, "val/a/1.jpg", "val/b/1.jpg"], {"val_images": 3}, r"val_images is 3, but .* has only 2"),
    ],
)
def test_the_check_refuses_either_split(
    tmp_path: Path, make_run: MakeRun, files: list[str], data: dict[str, int], message: str
) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=message):
        check_data(make_run(tmp_path, 2, **data))


def test_the_check_scans_once_and_opens_no_image(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *TRAIN, "val/a/1.jpg", "val/b/1.jpg")  # no images in truth
    run = make_run(tmp_path, 2, val_images=2)
    check_data(run)
    monkeypatch.setattr("suite.data.index._images_in", None)
    check_data(run)
    assert steps_per_epoch(run) == 1
    val_loader(run, images_per_batch=2, rank=0, world_size=1, device=torch.device("cpu"))


def test_synthetic_data_need_no_folder(make_run: MakeRun) -> None:
    data = DataSpec(name="synthetic", num_classes=2)
    check_data(make_run(Path("/"), 2).model_copy(update={"data": data}))
