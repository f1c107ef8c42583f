"""Every form in which people hold ImageNet becomes the same pack; what is damaged is named."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from suite.data.importing import FORMS, Labels, find_images
from suite.data.importing.found import numbered_classes
from suite.data.importing.tfrecord import masked_crc32c
from suite.data.pack_writer import sources_of, write_pack
from suite.data.packs import pack_index
from suite.errors import UserError
from tests.data.conftest import picture
from tests.data.test_packs import MakeRun, assert_equal, batches
from tests.helpers import imagenet_forms as forms
from tests.helpers.command_line import shiftbench


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 training and 11 validation images in class folders, of names whose order a suffix would change."""
    folder = tmp_path_factory.mktemp("imagenet")
    numbers = (1, 5, 53, 530, 7)
    for place, synset in enumerate(forms.SYNSETS):
        (folder / "train" / synset).mkdir(parents=True)
        (folder / "val" / synset).mkdir(parents=True)
        for number in numbers[: 5 - place % 2]:
            picture(number + place, 30, 20 + number % 9).save(
                folder / f"train/{synset}/{synset}_{number}.JPEG", "JPEG"
            )
    for number in range(11):
        synset = forms.SYNSETS[number * 7 % 3]
        picture(number, 24, 33).save(folder / f"val/{synset}/ILSVRC2012_val_{number:08d}.JPEG", "JPEG")
    return folder


@pytest.fixture(scope="module")
def expected(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("expected") / "pack"
    return write_pack(*sources_of(original), out).folder


def imported(source: Path, out: Path, labels: Labels = Labels(), num_classes: int | None = 3) -> Path:  # noqa: B008
    found = find_images(source, labels, num_classes)
    return write_pack(found.sources, found.classes, out, images_per_file=4).folder


Image = tuple[bytes, int, list[int], bytes]


def content(pack: Path, split: str) -> tuple[tuple[str, ...], list[Image]]:
    """The classes, and of each image in the order of the index its name, label, size and bytes."""
    index = pack_index(pack, split)
    assert index.shapes_N2 is not None
    columns = zip(index.names_N.tolist(), index.labels_N.tolist(), index.shapes_N2.tolist(), strict=True)
    return index.classes, [
        (name, label, shape, bytes(index.read(image, checked=True)))
        for image, (name, label, shape) in enumerate(columns)
    ]


@pytest.mark.parametrize("form", forms.FORMS)
def test_every_form_becomes_the_same_pack(original: Path, expected: Path, tmp_path: Path, form: str) -> None:
    source = tmp_path / form
    source.mkdir()
    forms.FORMS[form](original, source)
    pack = imported(source, tmp_path / "pack")
    for split in ("train", "val"):
        assert content(pack, split) == content(expected, split)
    assert content(pack, "val")[0] == forms.SYNSETS


def test_training_gets_the_batches_of_the_folder(original: Path, tmp_path: Path, make_run: MakeRun) -> None:
    """Of one form: the packs of all have the same images in the same order."""
    source = tmp_path / "source"
    source.mkdir()
    forms.official_tars(original, source)
    of_folder, of_pack = (
        batches(make_run(folder, 3, image_size=16, loader="torchvision"), 3)
        for folder in (original, imported(source, tmp_path / "pack"))
    )
    assert_equal(of_pack[0], of_folder[0])
    assert not of_pack[1]


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_the_order_of_numbered_classes_is_that_of_every_form(
    original: Path, expected: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the numbers' order is, in which some shards count, synsets are sorted."""
    monkeypatch.setattr(forms, "SYNSETS", ("n01000003", "n00000010", "n00000021"))
    source = tmp_path / "source"
    source.mkdir()
    forms.FORMS[form](original, source)
    pack = imported(source, tmp_path / "pack")
    for split in ("train", "val"):
        assert content(pack, split) == content(expected, split)


def test_synsets_of_a_list_are_sorted_and_other_names_keep_their_order(tmp_path: Path) -> None:
    names, labels = {"val": [b"1.jpg", b"2.jpg", b"3.jpg"]}, {"val": np.array([2, 0, 1])}
    (tmp_path / "list.txt").write_text("n00000003 shark\nn00000001 fish\nn00000002\n")
    sorted_labels, classes = numbered_classes(tmp_path / "list.txt", names, labels)
    assert classes == ("n00000001", "n00000002", "n00000003")
    assert sorted_labels["val"].tolist() == [1, 2, 0]  # n00000002, n00000003, n00000001
    (tmp_path / "list.txt").write_text("shark\nfish\ndog\n")
    same_labels, classes = numbered_classes(tmp_path / "list.txt", names, labels)
    assert (classes, same_labels["val"].tolist()) == (("shark", "fish", "dog"), [2, 0, 1])


def test_all_forms_are_tested() -> None:
    modules = {form.module.rpartition(".")[2] for form in FORMS.values()}
    assert modules == {"official_tars", "image_folder", "webdataset", "parquet", "tfrecord"}


def test_names_of_numbered_classes(original: Path, tmp_path: Path) -> None:
    """From the user's list, else from the file's description, else the numbers."""
    (tmp_path / "data").mkdir()
    rows = [
        {"image": original.joinpath(path).read_bytes(), "label": i % 2}
        for i, path in enumerate(sorted(original.rglob("*.JPEG"))[:6])
    ]
    for split in ("train", "validation"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"data/{split}-0.parquet")
    assert find_images(tmp_path, Labels(), 2).classes == ("0", "1")
    (tmp_path / "list.txt").write_text("n00000010 fish, shark\nold dog\n")
    labels = Labels(classes=tmp_path / "list.txt")
    assert find_images(tmp_path, labels, 2).classes == ("n00000010", "old dog")
    pack = imported(tmp_path, tmp_path / "pack", labels, 2)
    assert content(pack, "val")[1][4][:2] == (b"val/old dog/validation-0-0000003.jpg", 1)
    (tmp_path / "list.txt").write_text("one\n")
    with pytest.raises(UserError, match=r"list.txt: has 1 classes, but an image has the label 1"):
        find_images(tmp_path, labels, None)


def test_the_checksum_of_lengths() -> None:
    """CRC-32C of "123456789" is E3069283; rotated right by 15 bits, plus A282EAD8."""
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


# ------------------------------------------------------------ what is refused


def cut(path: Path, by: int) -> None:
    os.truncate(path, path.stat().st_size - by)


def with_train_tar(
    change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]],
) -> Callable[[Path, Path], None]:
    def write(original: Path, out: Path) -> None:
        forms.official_tars(original, out)
        forms.tar_of(out / "ILSVRC2012_img_train.tar", change(forms.class_tars(original)))

    return write


def then(
    write: Callable[[Path, Path], None], change: Callable[[Path], object]
) -> Callable[[Path, Path], None]:
    def both(original: Path, out: Path) -> None:
        write(original, out)
        change(out)

    return both


def _inner_foreign(tars: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    (name, _), *others = tars
    path = Path(os.environ["PYTEST_INNER"])
    forms.tar_of(path, [("a.JPEG", b"x"), ("notes.txt", b"x")])
    return [(name, path.read_bytes()), *others]


TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
EXTRA = ("n09999999.tar", 0)
BAD: dict[str, Callable[[Path, Path], None]] = {
    f"{TRAIN}: is cut short or damaged": then(forms.official_tars, lambda out: cut(out / TRAIN, 30_000)),
    f"{VAL}: is cut short or damaged": then(
        # Behind the last file there are only zeros, of which the first 1024 bytes are the end.
        forms.official_tars,
        lambda out: os.truncate(out / VAL, len((out / VAL).read_bytes().rstrip(b"\0")) // 512 * 512 + 512),
    ),
    f"{TRAIN}: n01000003.tar: is cut short or damaged": with_train_tar(
        lambda tars: [(tars[0][0], tars[0][1][:1500]), *tars[1:]]
    ),
    f"{TRAIN}: holds README, which is no tar of a class": with_train_tar(
        lambda tars: [*tars, ("README", b"x")]
    ),
    f"{TRAIN}: n01000003.tar: holds notes.txt, which is no image": with_train_tar(_inner_foreign),
    "val: has no image of the class n09999999, which the other split has": with_train_tar(
        lambda tars: [*tars, ("n09999999.tar", tars[0][1])]
    ),
    f"{VAL}: is compressed \\(gzip\\): unpack it to a plain tar first": then(
        forms.official_tars, lambda out: (out / VAL).write_bytes(b"\x1f\x8b\x08")
    ),
    "bad: has 0 tars of validation images; expected one": then(
        forms.official_tars, lambda out: (out / VAL).unlink()
    ),
    "bad: the labels of the validation images are missing: ILSVRC2012_devkit_t12.tar.gz or": then(
        forms.official_tars, lambda out: (out / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    ),
    "devkit_t12.tar.gz: cannot be read: ": then(
        forms.official_tars, lambda out: cut(out / "ILSVRC2012_devkit_t12.tar.gz", 100)
    ),
    "synset_labels.txt: has 10 labels, but there are 11 validation images": then(
        forms.synset_list,
        lambda out: cut(out / "imagenet_2012_validation_synset_labels.txt", len("n00000010\n")),
    ),
    "LOC_val_solution.csv: has no label of ILSVRC2012_val_00000000.JPEG": then(
        forms.kaggle,
        lambda out: (out / "LOC_val_solution.csv").write_text(
            (out / "LOC_val_solution.csv").read_text().replace("val_00000000", "val_99999999")
        ),
    ),
    "ground_truth.txt: its numbers are the devkit's, whose meta.mat is missing beside it": then(
        forms.map_of_classes, lambda out: (out / "map_clsloc.txt").unlink()
    ),
    "train-00000-of-00002.parquet: row 5 has no image \\(null\\)": lambda original, out: forms.parquet(
        original, out, bad_row={"image": None}
    ),
    "validation-00000-of-00002.parquet: row 5 has no image \\(null\\)": lambda original, out: forms.parquet(
        original, out, bad_row={"image": {"bytes": None, "path": "a_n00000010.JPEG"}, "label": 0}, split="val"
    ),
    "train-00000-of-00002.parquet: row 5 has the label -1; expected a number from 0": lambda original, out: (
        forms.parquet(original, out, bad_row={"label": -1})
    ),
    "data/train: the file 0 of 2 is missing, counted from 0": then(
        forms.parquet, lambda out: (out / "data/train-00000-of-00002.parquet").unlink()
    ),
    "LOC_val_solution.csv: has a label of ILSVRC2012_val_99999999, but there is no such": then(
        forms.kaggle,
        lambda out: (out / "LOC_val_solution.csv").write_text(
            (out / "LOC_val_solution.csv").read_text() + "ILSVRC2012_val_99999999,n00000010 1 2 3 4\n"
        ),
    ),
    "val: has images beside folders; expected either, with all of them": then(
        forms.kaggle, lambda out: (next(out.rglob("val")) / "n00000010").mkdir()
    ),
    "train-00001-of-00002.parquet: cannot be read as Parquet: ": then(
        forms.parquet, lambda out: cut(out / "data/train-00001-of-00002.parquet", 100)
    ),
    "train-00.tar: .* has no label: expected .*.cls, or a label in .*.json": then(
        forms.webdataset, lambda out: forms.tar_of(out / "imagenet1k-train-00.tar", [("a.jpg", b"x")])
    ),
    "train-00.tar: holds README, which is no part of a sample": then(
        forms.webdataset, lambda out: forms.tar_of(out / "imagenet1k-train-00.tar", [("README", b"x")])
    ),
    "val: x_n00000021.jpg has the label 0, as have images of n00000010": then(
        forms.webdataset,
        lambda out: forms.tar_of(
            out / "imagenet1k-validation-01.tar", [("x_n00000021.jpg", b"x"), ("x_n00000021.cls", b"0")]
        ),
    ),
    "imagenet1k-train-00.tar: is cut short or damaged": then(
        forms.webdataset, lambda out: cut(out / "imagenet1k-train-00.tar", 12_000)
    ),
    "shard.tar: its name should say either train or validation": then(
        forms.webdataset, lambda out: forms.tar_of(out / "shard.tar", [("1.jpg", b"x"), ("1.cls", b"0")])
    ),
    "bad: has no files of val": then(
        forms.webdataset, lambda out: [path.unlink() for path in out.glob("*validation*")]
    ),
    "train-00001-of-00002: is cut short: its last record is incomplete": then(
        forms.tfrecord, lambda out: cut(out / "train-00001-of-00002", 10)
    ),
    "train-00000-of-00002: is damaged at byte 0, or holds no TFRecords": then(
        forms.tfrecord, lambda out: (out / "train-00000-of-00002").write_bytes(bytes(range(40)))
    ),
    "bad: holds none of these: the two official tars": lambda original, out: None,
}


def test_a_name_that_contradicts_its_label_is_refused() -> None:
    names = {"train": [b"n00000001_1.jpg", b"n00000002_1.jpg", b"val_1_n00000002.jpg"]}
    with pytest.raises(UserError, match=r"val_1_n00000002.jpg has the label 1, as have images of n00000001"):
        numbered_classes(None, names, {"train": np.array([1, 0, 1])})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("n00000001\nn00000002\n", "the label 0 is n00000001, but its images' names say n00000002"),
        ("n00000001\nn00000001\n", "has the class n00000001 twice; expected another one on each line"),
        ("n00000001\n", "has 1 classes, but an image has the label 1"),
    ],
)
def test_a_list_that_contradicts_the_images_is_refused(tmp_path: Path, lines: str, said: str) -> None:
    (tmp_path / "list.txt").write_text(lines)
    names = {"train": [b"n00000002_1.jpg", b"1.jpg"]}
    with pytest.raises(UserError, match=f"list.txt: {said}"):
        numbered_classes(tmp_path / "list.txt", names, {"train": np.array([0, 1])})


@pytest.mark.parametrize("sentence", BAD)
def test_what_is_damaged_is_named(
    original: Path, tmp_path: Path, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_INNER", str(tmp_path / "inner.tar"))
    source = tmp_path / "bad"
    source.mkdir()
    BAD[sentence](original, source)
    with pytest.raises(UserError, match=sentence):
        imported(source, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_the_command(original: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "pack"
    source.mkdir()
    forms.official_tars(original, source)
    done = shiftbench("data", "import", "imagenet", source, out)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {source}: has 3 classes (n00000010, n00000021, n01000003), not 1000; --num-classes says how "
        "many there should be\n"
    )
    done = shiftbench("data", "import", "imagenet", source, out, "--num-classes", 3, "--images-per-file", 5)
    assert (done.returncode, done.stdout) == (
        0,
        f"{out}: 14 images of train, 11 images of val, 3 classes\n",
    )
    assert done.stderr.startswith("packed 25 images, 0.00 GB, in 0 s (")
    done = shiftbench("data", "check", out)
    assert done.stdout == f"{out}: 14 images of train, 11 images of val, 3 classes: intact\n"
    place = int(pack_index(out, "train").packed.rows_N["offset"][0])  # type: ignore[union-attr]
    with (out / "train-00001.data").open("r+b") as file:
        file.seek(place)
        file.write(np.random.default_rng(0).bytes(50))
    done = shiftbench("data", "check", out)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has another checksum than in the index" in done.stderr
    again = shiftbench("data", "pack", original, tmp_path / "again")
    assert again.returncode == 0
    assert again.stdout == f"{tmp_path / 'again'}: 14 images of train, 11 images of val, 3 classes\n"
