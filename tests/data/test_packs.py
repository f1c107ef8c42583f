"""Packs: the bytes, order and batches of the folder that was packed, and every disagreement named."""

import itertools
import json
import os
import re
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from suite.data import Batch, train_loader, val_loader
from suite.data.image_shape import image_shape
from suite.data.index import scan
from suite.data.pack_sources import LooseFiles
from suite.data.pack_writer import sources_of, write_pack
from suite.data.packs import check_pack, open_pack, pack_index
from suite.errors import UserError
from suite.experiment import Run
from suite.train import train_run
from tests.data.conftest import picture
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.runs import tiny_run

CPU = torch.device("cpu")
LOADERS = ("dali", "torchvision")
MakeRun = Callable[..., Run]


def pack(folder: Path, out: Path, images_per_file: int = 7) -> Path:
    return write_pack(*sources_of(folder), out, images_per_file=images_per_file).folder


@pytest.fixture(scope="module")
def packed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(pictures, tmp_path_factory.mktemp("packs") / "pictures")


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    """A pack that a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def batches(run: Run, count: int = 20) -> tuple[list[Batch], dict[str, str]]:
    """The training batches and all validation batches, and the bad images met."""
    training = train_loader(run, start_step=2, rank=0, world_size=1, device=CPU)
    validation = val_loader(run, images_per_batch=4, rank=0, world_size=1, device=CPU)
    found = [*itertools.islice(training, count), *validation]
    for loader in (training, validation):
        loader.close()
    bad = training.bad_images | validation.bad_images
    return found, {os.path.relpath(path, str(run.data.path)): reason for path, reason in bad.items()}


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images_NCHW, b.images_NCHW)
        assert torch.equal(a.labels_N, b.labels_N)


def test_it_holds_the_files_as_they_are_in_their_order(pictures: Path, packed: Path) -> None:
    assert sorted(path.name for path in packed.iterdir()) == [
        "pack.json",
        *(f"train-0000{number}.data" for number in range(6)),
        "train.npy",
        *("val-00000.data", "val-00001.data", "val.npy"),
    ]
    for split in ("train", "val"):
        loose, index = scan(pictures, split), pack_index(packed, split)
        assert index.classes == loose.classes == ("class-0", "class-1", "class-2")
        assert index.names_N.tolist() == loose.names_N.tolist()
        assert index.labels_N.tolist() == loose.labels_N.tolist()
        for image in range(len(loose)):
            path = Path(loose.path(image))
            assert bytes(index.read(image, checked=True)) == path.read_bytes()
            with Image.open(path) as picture_:
                assert index.shapes_N2 is not None
                assert index.shapes_N2[image].tolist() == [picture_.height, picture_.width]
            assert index.path(image) == str(packed / path.relative_to(pictures))
    assert check_pack(packed).classes == index.classes


@pytest.mark.parametrize("loader", LOADERS)
def test_batches_are_those_of_the_folder(
    pictures: Path, packed: Path, make_run: MakeRun, loader: str
) -> None:
    for options in ({}, {"train_images": 30, "val_images": 7}):
        loose, of_pack = (
            make_run(folder, 3, image_size=64, loader=loader, **options) for folder in (pictures, packed)
        )
        found, bad = batches(of_pack)
        assert not bad
        assert_equal(found, batches(loose)[0])


def test_dali_reads_no_headers(packed: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor calls Python for the crops within its graph: the index has the sizes."""
    monkeypatch.setattr("suite.data.dali_graph.fn.peek_image_shape", None)
    monkeypatch.setattr("suite.data.dali_graph.geometry", None)
    assert len(batches(make_run(packed, 3, image_size=64), 3)[0]) == 6


@pytest.mark.parametrize("loader", LOADERS)
def test_bad_files_are_replaced_as_in_the_folder(
    pictures: Path, tmp_path: Path, make_run: MakeRun, loader: str
) -> None:
    folder = Path(shutil.copytree(pictures, tmp_path / "bad"))
    train, val = (sorted((folder / split).rglob("*.jpg")) for split in ("train", "val"))
    half = train[3].read_bytes()
    train[3].write_bytes(half[: len(half) // 2])
    train[8].write_text("no picture")
    train[9].write_bytes(b"")
    val[5].write_text("no picture")
    loose, of_pack = (
        make_run(one, 3, image_size=64, loader=loader) for one in (folder, pack(folder, tmp_path / "p"))
    )
    (expected, bad), (found, bad_too) = batches(loose, 30), batches(of_pack, 30)
    assert_equal(found, expected)
    assert {name: reason.partition(" (")[0] for name, reason in bad_too.items()} == {
        name: reason.partition(" (")[0] for name, reason in bad.items()
    }
    assert len(bad) == 4


@pytest.mark.parametrize("loader", LOADERS)
def test_a_run_ends_as_on_the_folder(fashion: Path, tmp_path: Path, loader: str) -> None:
    folders = {"folder": fashion, "pack": pack(fashion, tmp_path / "fashion", 600)}
    for name, path in folders.items():
        run = tiny_run(data={"path": str(path), "loader": loader}, recipe={"epochs": 1})
        train_run(run, tmp_path / name)
    assert_bit_equal(final_state(tmp_path / "pack"), final_state(tmp_path / "folder"))
    assert measured(tmp_path / "pack") == measured(tmp_path / "folder")


def test_a_size_is_what_decoders_see(tmp_path: Path) -> None:
    image = picture(0, 37, 52)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: turn by 90 degrees
    options = {
        "a.jpg": {},
        "b.jpg": {"progressive": True, "exif": turned, "comment": b"\xff\xc0" * 20},
        **{f"c.{suffix}": {} for suffix in ("png", "bmp", "tif", "ppm", "webp")},
    }
    for name, save in options.items():
        image.save(tmp_path / name, **save)
        assert image_shape((tmp_path / name).read_bytes()) == (37, 52), name
    image.convert("CMYK").save(tmp_path / "d.jpg")
    whole = (tmp_path / "d.jpg").read_bytes()
    assert image_shape(whole) == image_shape(whole[:1200]) == (37, 52)
    assert image_shape(whole[:2] + b"??" + whole[2:]) == (37, 52)  # as libjpeg, with a warning
    behind_the_scan = b"\xff\xd8\xff\xda\0\x02\xff\xc0" + bytes(range(1, 30))
    for content in (behind_the_scan, b"", b"no picture", whole[:20], b"\xff\xd8\xff\xd9", b"\x89PNG"):
        assert image_shape(content) == (0, 0)


# ------------------------------------------------------------ stopping and continuing


class Interrupted(Exception):
    pass


class StopsAt(LooseFiles):
    """Images of which one cannot be had, when other data files are complete."""

    others: ClassVar[list[Path]]

    def contents(self, first: int, end: int):  # type: ignore[no-untyped-def]
        for image, content in enumerate(super().contents(first, end), first):
            if image == 16:
                while not all(path.exists() for path in self.others):
                    time.sleep(0.01)
                raise Interrupted
            yield content


def test_it_continues_where_it_was_stopped(pictures: Path, packed: Path, tmp_path: Path) -> None:
    out, draft = tmp_path / "out", tmp_path / ".out.packing"
    sources, classes = sources_of(pictures)
    train = sources["train"]
    assert isinstance(train, LooseFiles)
    StopsAt.others = [draft / f"rows/train-0000{number}.npy" for number in range(2)]
    with pytest.raises(Interrupted):
        write_pack({**sources, "train": StopsAt(**vars(train))}, classes, out, images_per_file=7)
    assert not out.exists()
    done = {path.stem for path in (draft / "rows").glob("*.npy")}
    assert "train-00002" not in done  # its images 14 to 20
    # A machine that fails may lose what was written last.
    before = {name: (draft / "pack" / f"{name}.data").stat().st_mtime_ns for name in done}
    lost = draft / "pack/train-00001.data"
    lost.write_bytes(bytes(lost.stat().st_size))
    (draft / "rows/train-00000.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"\.out\.packing: is the rest of an attempt to pack other images"):
        write_pack(sources, classes, out, images_per_file=8)
    write_pack(sources, classes, out, images_per_file=7)
    assert not draft.exists()
    for name in done - {"train-00000", "train-00001"}:
        assert (out / f"{name}.data").stat().st_mtime_ns == before[name]
    for path in packed.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_images_that_changed_meanwhile_are_packed_anew(pictures: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pictures, tmp_path / "folder"))
    out, draft = tmp_path / "out", tmp_path / ".out.packing"
    sources, classes = sources_of(folder)
    train = sources["train"]
    assert isinstance(train, LooseFiles)
    StopsAt.others = [draft / f"rows/train-0000{number}.npy" for number in range(2)]
    with pytest.raises(Interrupted):
        write_pack({**sources, "train": StopsAt(**vars(train))}, classes, out, images_per_file=7)
    first, eighth = (Path(scan(folder, "train").path(image)) for image in (0, 7))
    picture(99, 40, 50).save(first, "JPEG")
    others_ns = (draft / "pack/train-00001.data").stat().st_mtime_ns
    write_pack(sources, classes, out, images_per_file=7)
    index = pack_index(out, "train")
    assert bytes(index.read(0, checked=True)) == first.read_bytes()
    assert bytes(index.read(7, checked=True)) == eighth.read_bytes()
    assert (out / "train-00001.data").stat().st_mtime_ns == others_ns  # whose images are as they were


def test_what_counts_as_done_is_on_the_disk(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each data file before its rows, and all of it before the manifest; the pack appears after that."""
    synced, out, draft = list[str](), tmp_path / "out", tmp_path / ".out.packing"
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if name.endswith(".data"):
            assert not (draft / "rows" / name).with_suffix(".npy").exists()
        assert not out.exists()
        synced.append(re.sub(r"^\.(.*)\.\d+\.tmp$", r"\1", name))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    pack(pictures, out)
    places = {name: place for place, name in enumerate(synced)}
    for path in out.glob("*.data"):
        assert places[path.name] < places[path.with_suffix(".npy").name]
    assert synced[-3:] == ["train.npy", "val.npy", "pack.json"]


def test_a_full_disk_is_named_and_nothing_is_lost(fashion: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, hard)
    )  # a file of 600 images is larger, one of 100 not
    try:
        with pytest.raises(
            UserError, match=r"(train|val)-\d+\.data: File too large: \d+ of 12 data files are complete"
        ):
            write_pack(*sources_of(fashion), out, images_per_file=600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(write_pack(*sources_of(fashion), out, images_per_file=600).splits["train"].files) == 10


def test_two_at_once_are_refused(pictures: Path, tmp_path: Path) -> None:
    from suite.files import locked

    (tmp_path / ".out.packing").mkdir()
    lock = tmp_path / ".out.packing" / "lock"
    with (
        locked(lock, wait=False),
        pytest.raises(UserError, match="out: another process is packing there"),
    ):
        pack(pictures, tmp_path / "out")
    pack(pictures, tmp_path / "out")
    with pytest.raises(UserError, match="out: exists; name a new folder"):
        pack(pictures, tmp_path / "out")
    with pytest.raises(UserError, match="out: is a pack already"):
        pack(tmp_path / "out", tmp_path / "again")


# ------------------------------------------------------------ what is refused


def test_folders_that_cannot_be_packed(pictures: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pictures, tmp_path / "folder"))
    (folder / "val/class-2").rename(folder / "val/class-3")
    with pytest.raises(
        UserError, match="train/ and val/ have different class folders: class-2 is in one only"
    ):
        pack(folder, tmp_path / "out")
    shutil.rmtree(folder / "val")
    gone = next((folder / "train").rglob("*.jpg"))
    gone.unlink()
    gone.symlink_to("nowhere")
    with pytest.raises(UserError, match=rf"{gone.name}: cannot be read: No such file"):
        pack(folder, tmp_path / "out")
    gone.unlink()
    scan.cache_clear()
    assert list(open_pack(pack(folder, tmp_path / "other")).splits) == ["train"]
    with pytest.raises(UserError, match="is a pack of train, and has no val"):
        pack_index(tmp_path / "other", "val")
    sources, classes = sources_of(folder)
    source = sources["train"]
    assert isinstance(source, LooseFiles)
    twice = replace(source, names=[source.names[0], source.names[0], *source.names[2:]])
    with pytest.raises(UserError, match=r"two images are called class-0/\d+\.jpg"):
        write_pack({"train": twice}, classes, tmp_path / "third")
    with pytest.raises(UserError, match="the class class-9 has no images"):
        write_pack(sources, (*classes, "class-9"), tmp_path / "third")


def change(path: Path, place: int, to: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(to)


def of_manifest(copy: Path, **changes: object) -> None:
    content = json.loads((copy / "pack.json").read_text())
    (copy / "pack.json").write_text(json.dumps(content | changes))


DISAGREE = "copy the pack again, or pack the images anew"
DAMAGE: dict[str, Callable[[Path], object]] = {
    rf"train-00003.data: has 5000 bytes, not the \d+ of pack.json: {DISAGREE}": lambda copy: os.truncate(
        copy / "train-00003.data", 5000
    ),
    rf"train-00005.data: cannot be read: No such file or directory; {DISAGREE}": lambda copy: (
        copy / "train-00005.data"
    ).unlink(),
    rf"train.npy: its index and data disagree: {DISAGREE}": lambda copy: change(
        copy / "train.npy", 900, b"\x09"
    ),
    rf"train.npy: has \d+ bytes, not the \d+ of pack.json: {DISAGREE}": lambda copy: shutil.copy(
        copy / "val.npy", copy / "train.npy"
    ),
    rf"pack.json: is not the pack.json of a pack: {DISAGREE}": lambda copy: (copy / "pack.json").write_text(
        "{"
    ),
    "pack.json: has version 9; this shiftbench reads 1": lambda copy: of_manifest(copy, version=9),
    f"its index and data disagree: {DISAGREE}": lambda copy: of_manifest(copy, classes=["a", "b"]),
}


@pytest.mark.parametrize("sentence", DAMAGE)
def test_a_pack_whose_parts_disagree_is_refused_when_it_is_opened(copy: Path, sentence: str) -> None:
    DAMAGE[sentence](copy)
    with pytest.raises(UserError, match=sentence):
        pack_index(copy, "train")


@pytest.mark.parametrize("loader", LOADERS)
def test_an_image_that_was_damaged_in_the_pack_is_no_bad_image(
    copy: Path, make_run: MakeRun, loader: str
) -> None:
    """It would be replaced silently. Training compares with its checksum what cannot be decoded."""
    change(copy / "train-00001.data", 0, b"????")
    sentence = rf"train-00001.data: train/class-0/\d+.jpg has another checksum than in the index: {DISAGREE}"
    with pytest.raises(UserError, match=sentence):
        batches(make_run(copy, 3, image_size=64, loader=loader))
    with pytest.raises(UserError, match=sentence):
        check_pack(copy)


def test_a_file_that_shrinks_meanwhile_is_named(copy: Path) -> None:
    index = pack_index(copy, "val")
    os.truncate(copy / "val-00000.data", 100)
    with pytest.raises(UserError, match=rf"val-00000.data: ends before byte \d+: {DISAGREE}"):
        index.read(0)


def test_another_number_of_classes_is_refused(packed: Path, make_run: MakeRun) -> None:
    with pytest.raises(UserError, match=r"pictures: has 3 classes, but data.num_classes is 4"):
        batches(make_run(packed, 4))


def test_names_are_in_numpys_strings_whole(tmp_path: Path) -> None:
    """The longest name decides the width of all."""
    for name in ("a.jpg", f"{'long' * 50}.jpg"):
        path = tmp_path / "in/train" / ("c" if len(name) < 9 else "d") / name
        path.parent.mkdir(parents=True)
        picture(0, 20, 20).save(path)
    index = pack_index(pack(tmp_path / "in", tmp_path / "out", 1), "train")
    assert index.names_N.tolist() == [b"train/c/a.jpg", f"train/d/{'long' * 50}.jpg".encode()]
    assert index.names_N.dtype == np.dtype("S212")
