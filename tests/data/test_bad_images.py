"""Files that are not what they claim: named, replaced in training, left out in evaluation."""

import itertools
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suite.data import Batch, train_loader, val_loader
from suite.data.dali import PipelineLoader
from suite.data.index import ImageIndex
from suite.data.loader import decoding_fault
from suite.errors import UserError
from suite.experiment import Run
from tests.helpers.devices import DEVICES

CPU = torch.device("cpu")
LOADERS = ("dali", "torchvision")
MakeRun = Callable[..., Run]
NUM_TRAIN, NUM_VAL = 40, 11


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BREAK: dict[str, Callable[[Path], object]] = {
    "truncated or broken JPEG (": truncate,
    "not an image (": lambda path: path.write_text("this is no picture\n" * 20),
    "empty file": lambda path: path.write_bytes(b""),
    "cannot be read: No such file": lambda path: (path.unlink(), path.symlink_to(path.name + ".gone")),
}


@pytest.fixture
def broken(pictures: Path, tmp_path: Path) -> tuple[Path, dict[Path, str]]:
    """The pictures with one bad file of each kind in both splits, and those files with what is wrong."""
    folder = tmp_path / "broken"
    shutil.copytree(pictures, folder)
    bad: dict[Path, str] = {}
    for split in ("train", "val"):
        paths = sorted((folder / split).rglob("*.jpg"))
        for path, (reason, spoil) in zip(paths[2::2], BREAK.items(), strict=False):
            spoil(path)
            bad[path] = reason
    return folder, bad


def train(
    run: Run, count: int, start_step: int = 0, device: torch.device = CPU
) -> tuple[list[Batch], dict[str, str]]:
    loader = train_loader(run, start_step=start_step, rank=0, world_size=1, device=device)
    batches = list(itertools.islice(loader, count))
    loader.close()
    return batches, loader.bad_images


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images_NCHW, b.images_NCHW)
        assert torch.equal(a.labels_N, b.labels_N)


def assert_named(named: dict[str, str], bad: dict[Path, str], split: str) -> None:
    expected = {str(path): reason for path, reason in bad.items() if split in path.parts}
    assert named.keys() == expected.keys()
    for path, reason in expected.items():
        assert named[path].startswith(reason)
        assert len(named[path]) < 140
        assert len(named[path].splitlines()) == 1


def test_the_decoders_own_words_follow_the_reason(tmp_path: Path) -> None:
    """Without tracebacks and places in C++, and cut short."""
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8...")
    files = ImageIndex(tmp_path, np.array([b"x.jpg"]), np.zeros(1, np.int64), ("a",))
    for message, words in (
        (
            "Critical error:\n  File x\n\nencountered:\n\nNo luck with #0 : \nPipeline is invalid.",
            "No luck with #0",
        ),
        (
            "decode_jpeg, /a/decode_jpeg.cpp:171, Image is incomplete or truncated",
            "Image is incomplete or truncated",
        ),
        ("word " * 100, "word " * 19 + "…"),
    ):
        assert decoding_fault(files, 0, message) == f"truncated or broken JPEG ({words})"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loader", LOADERS)
def test_training_goes_on_and_names_them(
    broken: tuple[Path, dict[Path, str]], make_run: MakeRun, loader: str, device: torch.device
) -> None:
    folder, bad = broken
    # Nearly whole images, so that each crop meets the missing half of the truncated one.
    run = make_run(folder, 3, image_size=64, loader=loader, crop_area=(0.9, 1.0))
    batches, named = train(run, 10, device=device)
    assert [len(batch.labels_N) for batch in batches] == [4] * 10
    assert_named(named, bad, "train")


def test_a_pipeline_that_failed_is_gone_before_others_are_built(
    broken: tuple[Path, dict[Path, str]], make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []
    left: list[int] = []
    build, search = PipelineLoader._fed_pipeline, PipelineLoader._name_bad

    def fed_pipeline(self: Any) -> Any:
        feed, pipeline = build(self)
        made.append(weakref.ref(pipeline))
        return feed, pipeline

    def name_bad(self: Any, *arguments: Any) -> None:
        left.append(sum(one() is not None for one in made))
        search(self, *arguments)

    monkeypatch.setattr(PipelineLoader, "_fed_pipeline", fed_pipeline)
    monkeypatch.setattr(PipelineLoader, "_name_bad", name_bad)
    train(make_run(broken[0], 3, image_size=64, loader="dali", crop_area=(0.9, 1.0)), 3, device=CPU)
    assert left
    assert set(left) == {0}


@pytest.mark.parametrize("num_bad", [0, 4])
def test_a_failure_of_dali_is_blamed_on_no_file(
    broken: tuple[Path, dict[Path, str]],
    pictures: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    num_bad: int,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the driver is out for lunch")

    monkeypatch.setattr("suite.data.dali_graph.geometry", fail)
    run = make_run(broken[0] if num_bad else pictures, 3, image_size=48)
    training = train_loader(run, start_step=0, rank=0, world_size=1, device=CPU)
    validation = val_loader(run, images_per_batch=11, rank=0, world_size=1, device=CPU)
    for loader in (training, validation):
        with pytest.raises(
            RuntimeError, match=r"(?s)although torchvision decodes .*\.jpg.*the driver is out for lunch"
        ):
            list(loader)
        assert not loader.bad_images
        loader.close()


def test_a_bad_file_is_replaced_by_the_next_good_one(
    broken: tuple[Path, dict[Path, str]], pictures: Path, make_run: MakeRun
) -> None:
    """Both loaders give what they would give if the next good file stood there already."""
    folder, bad = broken
    repaired = folder.with_name("repaired")
    shutil.copytree(pictures, repaired)
    paths = sorted((folder / "train").rglob("*.jpg"))
    labels = [path.parent.name for path in paths]
    for path in (p for p in bad if "train" in p.parts):
        position = paths.index(path)
        stand_in = next(p for p in paths[position + 1 :] if p not in bad)
        assert labels[position] == labels[position + 1] == stand_in.parent.name
        shutil.copy(repaired / stand_in.relative_to(folder), repaired / path.relative_to(folder))
    for loader in LOADERS:
        options = {"image_size": 64, "loader": loader, "crop_area": (0.9, 1.0)}
        assert_equal(
            train(make_run(folder, 3, **options), 20)[0], train(make_run(repaired, 3, **options), 20)[0]
        )


@pytest.mark.parametrize("loader", LOADERS)
def test_resuming_does_not_hang_on_which_bad_files_were_met(
    broken: tuple[Path, dict[Path, str]], make_run: MakeRun, loader: str
) -> None:
    """Small crops: the truncated file then fails for some windows only."""
    run = make_run(broken[0], 3, image_size=64, loader=loader, crop_area=(0.05, 0.2))
    whole, _ = train(run, 60)
    for step in (3, 11, 22):
        assert_equal(whole[2 * step :], train(run, 60 - 2 * step, start_step=step)[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loader", LOADERS)
def test_evaluation_leaves_them_out(
    broken: tuple[Path, dict[Path, str]], make_run: MakeRun, loader: str, device: torch.device
) -> None:
    folder, bad = broken
    run = make_run(folder, 3, image_size=48, loader=loader)
    for per_batch in (1, 4, 20):
        validation = val_loader(run, images_per_batch=per_batch, rank=0, world_size=1, device=device)
        for _ in range(2):  # the second pass knows them
            assert sum(len(batch.labels_N) for batch in validation) == NUM_VAL - 4
            assert_named(validation.bad_images, bad, "val")
        validation.close()


@pytest.mark.parametrize("loader", LOADERS)
def test_a_split_without_a_good_image_is_refused(
    pictures: Path, tmp_path: Path, make_run: MakeRun, loader: str
) -> None:
    folder = tmp_path / "all-bad"
    shutil.copytree(pictures, folder)
    for path in folder.rglob("*.jpg"):
        path.write_text("no picture")
    run = make_run(folder, 3, image_size=48, loader=loader)
    with pytest.raises(UserError, match=r"all 40 images cannot be decoded; the last: .*jpg: not an image"):
        train(run, 1)
    validation = val_loader(run, images_per_batch=4, rank=0, world_size=1, device=CPU)
    with pytest.raises(UserError, match=r"all 11 images cannot be decoded"):
        list(validation)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_share_of_bad_images_only_is_no_error(
    tmp_path: Path, pictures: Path, make_run: MakeRun, loader: str
) -> None:
    folder = tmp_path / "half-bad"
    shutil.copytree(pictures, folder)
    paths = sorted((folder / "val").rglob("*.jpg"))
    for place in np.random.default_rng(0).permutation(len(paths))[:6]:  # the loader's order
        paths[place].write_text("no picture")
    run = make_run(folder, 3, image_size=48, loader=loader)
    share = val_loader(run, images_per_batch=4, rank=0, world_size=2, device=CPU)
    assert list(share) == []
    assert len(share.bad_images) == 5


@pytest.mark.parametrize("device", DEVICES)
def test_grey_cmyk_and_png_files_are_images(tmp_path: Path, make_run: MakeRun, device: torch.device) -> None:
    """Of one known colour, decoded by both loaders; the PNG is called .jpg, as one of ImageNet's is."""
    for split in ("train", "val"):
        for name, mode, colour, kind in (
            ("grey", "L", 100, "JPEG"),
            ("cmyk", "CMYK", (0, 255, 255, 0), "JPEG"),
            ("png", "RGB", (10, 200, 30), "PNG"),
        ):
            path = tmp_path / split / name / "0.jpg"
            path.parent.mkdir(parents=True)
            Image.new(mode, (60, 50), colour).save(path, format=kind, quality=95)
    for loader in LOADERS:
        run = make_run(tmp_path, 3, batch=(2, 2), image_size=32, loader=loader)
        validation = val_loader(run, images_per_batch=8, rank=0, world_size=1, device=device)
        (batch,) = list(validation)
        assert not validation.bad_images
        mean_C11 = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
        std_C11 = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
        grey_levels_NC = ((batch.images_NCHW.cpu() * std_C11 + mean_C11) * 255).mean((2, 3))
        # The classes: cmyk (no cyan, all magenta and yellow: red), grey, png.
        expected_NC = torch.tensor([[255.0, 0, 0], [100, 100, 100], [10, 200, 30]])
        np.testing.assert_allclose(grey_levels_NC, expected_NC[batch.labels_N.cpu()], atol=3)
