"""A tiny ImageNet in the forms in which people hold it, written without the code that reads them."""

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import savemat
from tensorboard.summary.writer.record_writer import RecordWriter

SYNSETS = ("n00000010", "n00000021", "n01000003")
# The devkit numbers classes in an order of its own.
DEVKIT_IDS = {"n00000010": 2, "n00000021": 3, "n01000003": 1}


def images_of(folder: Path, split: str) -> list[tuple[str, Path]]:
    """The class and the file of each image, by name of the file."""
    return sorted(
        ((path.parent.name, path) for path in (folder / split).glob("*/*")), key=lambda one: one[1].name
    )


def tar_of(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def class_tars(folder: Path) -> list[tuple[str, bytes]]:
    tars = []
    for class_folder in sorted((folder / "train").iterdir(), reverse=True):  # an order that should not matter
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as tar:
            for path in sorted(class_folder.iterdir()):
                tar.add(path, path.name)
        tars.append((f"{class_folder.name}.tar", inner.getvalue()))
    return tars


def both_tars(folder: Path, out: Path) -> None:
    tar_of(out / "ILSVRC2012_img_train.tar", class_tars(folder))
    images = [(path.name, path.read_bytes()) for _, path in images_of(folder, "val")]
    tar_of(out / "ILSVRC2012_img_val.tar", images[::-1])


def official_tars(folder: Path, out: Path) -> None:
    both_tars(folder, out)
    devkit = ground_truth(folder), meta()
    with tarfile.open(out / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        for name, content in zip(("ILSVRC2012_validation_ground_truth.txt", "meta.mat"), devkit, strict=True):
            info = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def ground_truth(folder: Path) -> bytes:
    return "".join(f"{DEVKIT_IDS[synset]}\n" for synset, _ in images_of(folder, "val")).encode()


def meta() -> bytes:
    rows = [(number, synset, "words") for synset, number in DEVKIT_IDS.items()]
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    file = io.BytesIO()
    savemat(file, {"synsets": np.array(rows, kinds)[:, None]})
    return file.getvalue()


def flat_val(folder: Path, out: Path) -> None:
    """The training images in folders, the validation images flat."""
    for synset, path in images_of(folder, "train"):
        copy(path, out / "train" / synset / path.name)
    for _, path in images_of(folder, "val"):
        copy(path, out / "val" / path.name)


def copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(path.read_bytes())


def unpacked_devkit(folder: Path, out: Path) -> None:
    flat_val(folder, out)
    data = out / "ILSVRC2012_devkit_t12/data"
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_bytes(ground_truth(folder))
    (data / "meta.mat").write_bytes(meta())


def map_of_classes(folder: Path, out: Path) -> None:
    flat_val(folder, out)
    (out / "ILSVRC2012_validation_ground_truth.txt").write_bytes(ground_truth(folder))
    lines = [f"{synset} {number} a_word\n" for synset, number in DEVKIT_IDS.items()]
    (out / "map_clsloc.txt").write_text("".join(lines))


def synset_list(folder: Path, out: Path) -> None:
    flat_val(folder, out)
    synsets_of_val(folder, out)


def synsets_of_val(folder: Path, out: Path) -> None:
    lines = [f"{synset}\n" for synset, _ in images_of(folder, "val")]
    (out / "imagenet_2012_validation_synset_labels.txt").write_text("".join(lines))


def kaggle(folder: Path, out: Path) -> None:
    flat_val(folder, out / "ILSVRC/Data/CLS-LOC")
    with (out / "LOC_val_solution.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "PredictionString"])
        for synset, path in images_of(folder, "val")[::-1]:
            rows.writerow([path.stem, f"{synset} 1 2 3 4 {synset} 5 6 7 8"])


def nested(folder: Path, out: Path) -> None:
    for split in ("train", "val"):
        for synset, path in images_of(folder, split):
            copy(path, out / split / synset / path.name)


def labelled(folder: Path, split: str) -> Iterator[tuple[str, int, bytes]]:
    """Each image's name with its synset behind it, its label and content, in another order."""
    images = images_of(folder, split)
    for place in np.random.default_rng(0).permutation(len(images)):
        synset, path = images[place]
        yield f"{path.stem}_{synset}{path.suffix}", SYNSETS.index(synset), path.read_bytes()


def webdataset(folder: Path, out: Path) -> None:
    for split, name in (("train", "train"), ("val", "validation")):
        files = []
        for image, label, content in labelled(folder, split):
            key, suffix = image.rsplit(".", 1)
            files += [(f"{key}.{suffix}", content), (f"{key}.json", json.dumps({"label": label}).encode())]
            if split == "train":
                files.append((f"{key}.cls", str(label).encode()))
        tar_of(out / f"imagenet1k-{name}-00.tar", files[:18])
        tar_of(out / f"imagenet1k-{name}-01.tar", files[18:])
    tar_of(out / "imagenet1k-test-00.tar", [("1.jpg", b"unlabelled")])


def parquet(
    folder: Path, out: Path, *, bad_row: dict[str, object] | None = None, split: str = "train"
) -> None:
    (out / "data").mkdir()
    names = {"info": {"features": {"label": {"names": ["a fish", "a dog", "a cup"], "_type": "ClassLabel"}}}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata={"huggingface": json.dumps(names)})
    for name in ("train", "val"):
        rows: list[dict[str, object]] = [
            {"image": {"bytes": content, "path": image}, "label": label}
            for image, label, content in labelled(folder, name)
        ]
        if bad_row is not None and name == split:
            rows[5] |= bad_row
        for number, part in enumerate((rows[:9], rows[9:])):
            title = {"train": "train", "val": "validation"}[name]
            path = out / "data" / f"{title}-{number:05d}-of-00002.parquet"
            pq.write_table(pa.Table.from_pylist(part, schema), path, row_group_size=4)


def tfrecord(folder: Path, out: Path) -> None:
    for split, title in (("train", "train"), ("val", "validation")):
        images = list(labelled(folder, split))
        for number, part in enumerate((images[:5], images[5:])):
            with (out / f"{title}-{number:05d}-of-00002").open("wb") as file:
                writer = RecordWriter(file)
                for name, label, content in part:
                    synset = SYNSETS[label]
                    writer.write(
                        example(
                            {
                                "image/height": 300,
                                "image/colorspace": b"RGB",
                                "image/encoded": content,
                                "image/class/label": label + 1,
                                "image/class/synset": synset.encode(),
                                "image/filename": name.replace(f"_{synset}", "").encode(),
                                "image/object/bbox/xmin": [],
                            }
                        )
                    )


def example(features: dict[str, int | bytes | list[float]]) -> bytes:
    """A tf.train.Example, by the description of Protocol Buffers' encoding."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, int):
            feature = field(3, field(1, varint(value)))
        elif isinstance(value, bytes):
            feature = field(1, field(1, value))
        else:
            feature = field(2, b"")
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


FORMS = {
    one.__name__: one
    for one in (
        *(official_tars, unpacked_devkit, map_of_classes, synset_list, kaggle, nested),
        *(webdataset, parquet, tfrecord),
    )
}
