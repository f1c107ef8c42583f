"""Images held in memory: the same as another loader's, in the same order, and what is refused."""

import gzip
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import suite.data.memory
from suite.config import expand
from suite.data import (
    Batch,
    check_data,
    idx_folder,
    steps_per_epoch,
    train_images_loader,
    train_loader,
    val_loader,
)
from suite.data.idx import PREFIXES, read_split, write_split
from suite.data.loader import MEAN, STD
from suite.data.sources import FASHION_CLASSES, SUBSET_FOLDER
from suite.errors import UserError
from suite.experiment import DataSpec, Run

CPU = torch.device("cpu")
WHOLE = {"image_size": 28, "eval_resize": 28, "crop_area": [1, 1], "flip": False}


def make_run(arch: str = "small_resnet11", batch: dict[str, Any] | None = None, **data: Any) -> Run:
    content = {
        "model": {"arch": arch},
        "data": {"name": "fashion-mnist-7k", "loader": "memory", **WHOLE, **data},
        "batch": batch or {"global_batch_size": 64, "batch_size_per_gpu": 32},
    }
    return expand(content, "memory").runs[0]


def some(run: Run, count: int, start_step: int = 0, rank: int = 0, world_size: int = 1) -> list[Batch]:
    loader = train_loader(run, start_step=start_step, rank=rank, world_size=world_size, device=CPU)
    batches = list(itertools.islice(loader, count))
    loader.close()
    return batches


def val(run: Run, images_per_batch: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    options = {"rank": rank, "world_size": world_size, "device": CPU}
    return list(val_loader(run, images_per_batch=images_per_batch, **options))


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images_NCHW, b.images_NCHW)
        assert torch.equal(a.labels_N, b.labels_N)


@pytest.fixture(scope="module")
def as_png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The carried images as files that lose nothing, named as `prepare` names its JPEGs."""
    folder = tmp_path_factory.mktemp("png")
    for split in PREFIXES:
        for number, (image, label) in enumerate(zip(*read_split(SUBSET_FOLDER, split), strict=True)):
            path = folder / split / FASHION_CLASSES[label] / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, compress_level=0)
    return folder


@pytest.mark.parametrize("subset", [{}, {"train_images": 100, "val_images": 40}])
def test_bit_equal_to_the_torchvision_loader(as_png: Path, subset: dict[str, int]) -> None:
    memory = make_run(**subset)
    files = make_run(loader="torchvision", path=str(as_png), **subset)
    step = steps_per_epoch(memory) - 1  # into the second epoch
    assert_equal(some(memory, 4, start_step=step), some(files, 4, start_step=step))
    assert_equal(val(memory, 500), val(files, 500))


def test_one_channel_for_a_network_that_reads_one() -> None:
    grey, colour = some(make_run("mlp20"), 2), some(make_run(), 2)
    assert grey[0].images_NCHW.shape == (32, 1, 28, 28)
    assert_equal(grey, [Batch(b.images_NCHW[:, :1], b.labels_N) for b in colour])
    assert val(make_run("mlp20"), 64)[0].images_NCHW.shape == (64, 1, 28, 28)


def test_a_restart_and_two_ranks_see_the_same() -> None:
    run = make_run(train_images=300)  # 4 steps an epoch, of two micro-batches
    whole = some(run, 12)
    assert_equal(whole[6:], some(run, 6, start_step=3))
    ranks = [some(run, 6, rank=rank, world_size=2) for rank in range(2)]
    assert_equal(whole, [batch for step in zip(*ranks, strict=True) for batch in step])


def test_each_validation_image_once_over_the_ranks() -> None:
    run = make_run(val_images=101)
    (expected,) = val(run, 200)
    shares = [batch for rank in range(3) for batch in val(run, 16, rank, 3)]
    assert torch.equal(torch.cat([b.images_NCHW for b in shares]), expected.images_NCHW)
    assert torch.equal(torch.cat([b.labels_N for b in shares]), expected.labels_N)


@pytest.mark.parametrize("loader", ["memory", "torchvision"])
def test_the_images_that_a_run_trains_on_each_once(as_png: Path, loader: str) -> None:
    path = None if loader == "memory" else str(as_png)
    run = make_run(batch={"global_batch_size": "all"}, train_images=50, loader=loader, path=path)
    (trained,) = some(run, 1)
    evaluated = [
        batch
        for rank in range(2)
        for batch in train_images_loader(run, images_per_batch=16, rank=rank, world_size=2, device=CPU)
    ]
    assert [len(batch.labels_N) for batch in evaluated] == [16, 9, 16, 9]

    def fingerprints(batches: list[Batch]) -> list[tuple[bytes, int]]:
        pairs = [pair for b in batches for pair in zip(b.images_NCHW, b.labels_N, strict=True)]
        return sorted((image.numpy().tobytes(), int(label)) for image, label in pairs)

    assert fingerprints(evaluated) == fingerprints([trained])


def write_idx(folder: Path, count: int = 20, side: int = 28, classes: int = 10) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for split in PREFIXES:
        images_NHW = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
        write_split(folder, split, images_NHW, np.arange(count, dtype=np.uint8) % classes)
    return folder


def test_mnist_is_read_where_it_lies_gzipped_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTBENCH_DATA_DIR", str(tmp_path))
    with pytest.raises(
        UserError, match=r"mnist is not here: put its four IDX files into .*, or set data\.path"
    ):
        idx_folder(DataSpec(name="mnist"))
    folder = write_idx(tmp_path / "mnist")
    found = val(make_run(name="mnist"), 20)
    assert sorted(found[0].labels_N.tolist()) == sorted(list(range(10)) * 2)
    for path in folder.iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    suite.data.index.scan_idx.cache_clear()
    assert_equal(val(make_run(name="mnist"), 20), found)
    assert_equal(val(make_run(name="mnist", path=str(folder)), 20), found)


def test_images_are_made_smaller_by_the_means_of_squares(tmp_path: Path) -> None:
    folder = write_idx(tmp_path)
    whole, halved = (
        torch.cat(
            [b.images_NCHW for b in val(make_run(path=str(folder), image_size=side, eval_resize=side), 20)]
        )
        for side in (28, 14)
    )
    pixels, smaller = (((x[:, 0] * STD[0] + MEAN[0]) * 255).round() for x in (whole, halved))
    by_hand = sum(pixels[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    torch.testing.assert_close(smaller, by_hand.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("data", [{"flip": True}, {"crop_area": [0.5, 1]}, {"eval_resize": 32}])
def test_nothing_is_cropped_or_mirrored(data: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"loader memory does not crop or mirror: set crop_area: \[1, 1\]"):
        make_run(**data)


@pytest.mark.parametrize(
    ("content", "data", "words"),
    [
        ({"side": 20}, {}, r"has images of 20 × 20, but data\.image_size is 28"),
        ({"classes": 7}, {}, r"has the labels 0 to 6, but data\.num_classes is 10"),
        ({"count": 20}, {"val_images": 21}, r"data\.val_images is 21, but .* has only 20 images"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, content: dict[str, int], data: dict[str, Any], words: str
) -> None:
    folder = write_idx(tmp_path / "idx", **content)
    with pytest.raises(UserError, match=words):
        val(make_run(path=str(folder), batch={"global_batch_size": 16}, **data), 16)


def test_a_folder_without_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has neither t10k-labels-idx1-ubyte\.gz nor t10k-labels-idx1-ubyte"):
        val(make_run(path=str(tmp_path)), 16)


def test_labels_that_do_not_fit_their_images(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "idx")
    write_split(folder, "val", np.zeros((20, 28, 28), np.uint8), np.arange(40, dtype=np.uint8) % 10)
    with pytest.raises(UserError, match="has 20 images, fewer than there are labels"):
        val(make_run(path=str(folder)), 16)
    suite.data.index.scan_idx.cache_clear()
    write_split(folder, "val", np.zeros((20, 28, 28), np.uint8), np.arange(20, dtype=np.uint8) % 9 * 2)
    with pytest.raises(UserError, match="no image has the label 1"):
        check_data(make_run(path=str(folder), batch={"global_batch_size": 16}))


def test_a_source_without_such_files() -> None:
    with pytest.raises(UserError, match="memory reads IDX files, which birds does not have"):
        idx_folder(
            DataSpec(name="imagenet", path="/nowhere").model_copy(
                update={"name": "birds", "path": None, "loader": "memory"}
            )
        )


def test_images_that_memory_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_idx(tmp_path / "idx")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable: 15 kB\n")  # 20 × 784 bytes are 15.3 kB
    monkeypatch.setattr(suite.data.memory, "MEMINFO", meminfo)
    with pytest.raises(UserError, match=r"its images take 0\.0 GiB, but 0\.0 GiB of memory are free on cpu"):
        val(make_run(path=str(folder)), 16)
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable: 16 kB\n")
    assert val(make_run(path=str(folder)), 16)
