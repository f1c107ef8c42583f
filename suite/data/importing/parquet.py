"""Hugging Face's shards: Parquet files with a column of encoded images and one of labels."""

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from suite.data.importing.found import Found, base_name, by_split, numbered_classes, original_name
from suite.data.index import Int64s
from suite.data.pack_sources import OfArchives, digest_of
from suite.errors import UserError
from suite.files import parse_json

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from suite.data.importing import Labels

ROWS_AT_A_TIME = 64


def is_in(folder: Path) -> bool:
    """Return whether a folder holds Parquet files, itself or in data/ or in one for each split."""
    return any(_shards(folder))


def _shards(folder: Path) -> Iterator[Path]:
    yield from folder.glob("*.parquet")
    yield from folder.glob("*/*.parquet")


def find(folder: Path, labels: "Labels") -> Found:
    """Return the images of all shards. Raises UserError for a shard that is damaged, or lacks a label."""
    shards = {
        split: [_Shard(path) for path in paths] for split, paths in by_split(folder, _shards(folder)).items()
    }
    raw_names = {split: [name for one in mine for name in one.raw_names] for split, mine in shards.items()}
    numbers = {split: np.concatenate([one.labels_N for one in mine]) for split, mine in shards.items()}
    known = shards["train"][0].classes
    labels_by_split, classes = numbered_classes(labels.classes, raw_names, numbers, known)
    sources = {}
    for split, mine in shards.items():
        labels_N = labels_by_split[split]
        pairs = zip(labels_N.tolist(), raw_names[split], strict=True)
        names = [f"{classes[label]}/".encode() + original_name(name) for label, name in pairs]
        sources[split] = Rows(mine, names, labels_N)
    return Found(sources, classes)


class _Shard:
    """A Parquet file, and the names and labels of its images."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _damage_named(path), pq_file(path) as file:
            schema = file.schema_arrow
            self.image = _column(path, schema, "image", lambda kind: _is_binary(_bytes_of(kind)))
            label = _column(path, schema, "label", _is_integer)
            self.classes = _class_names(schema, label)
            kind = schema.field(self.image).type
            self.is_struct = _is_struct(kind)
            has_paths = self.is_struct and kind.get_field_index("path") >= 0
            table = file.read([label, *([f"{self.image}.path"] if has_paths else [])])
        labels = table.column(label).to_pylist()
        for row, value in enumerate(labels):
            if value is None or value < 0:
                raise UserError(f"{path}: row {row} has the label {value}; expected a number from 0")
        self.labels_N = np.array(labels, np.int64)
        images = table.column(self.image).to_pylist() if has_paths else [None] * len(labels)
        given = [None if one is None else one["path"] for one in images]
        self.raw_names = [
            base_name(one) if one else f"{path.stem}-{row:07d}.jpg".encode() for row, one in enumerate(given)
        ]

    def contents(self, first: int, end: int) -> Iterator[bytes]:
        """Yield the images of the rows from `first` to before `end`."""
        column = f"{self.image}.bytes" if self.is_struct else self.image
        with _damage_named(self.path), pq_file(self.path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            groups = range(bisect.bisect_right(ends, first), bisect.bisect_left(ends, end) + 1)
            row = ends[groups[0]] - sizes[groups[0]]
            for batch in file.iter_batches(ROWS_AT_A_TIME, list(groups), [column]):
                images = batch.column(0).field("bytes") if self.is_struct else batch.column(0)
                for image in images:
                    if first <= row < end:
                        if not image.is_valid:
                            raise UserError(f"{self.path}: row {row} has no image (null)")
                        yield image.as_py()
                    row += 1


@dataclass(frozen=True)
class Rows(OfArchives):
    """Images that are rows of Parquet files. See `ImageSource`."""

    shards: Sequence[_Shard]
    names: Sequence[bytes]
    labels_N: Int64s

    def contents(self, first: int, end: int) -> Iterator[bytes]:
        start = 0
        for shard in self.shards:
            stop = start + len(shard.raw_names)
            if start < end and first < stop:
                yield from shard.contents(max(first, start) - start, min(end, stop) - start)
            start = stop

    def fingerprint(self) -> str:
        return digest_of(self.names, [shard.path for shard in self.shards], self.labels_N)


# ------------------------------------------------------------ the format


def pq_file(path: Path) -> "pq.ParquetFile":
    """Open a Parquet file."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _column(path: Path, schema: Any, name: str, fits: Callable[[Any], bool]) -> str:
    """Return the column of that name, or else the only one whose type fits. Raises UserError."""
    found = [field.name for field in schema if fits(field.type)]
    if name in found:
        return name
    if len(found) != 1:
        raise UserError(
            f"{path}: has no column `{name}` of the right type; its columns are {', '.join(schema.names)}"
        )
    return str(found[0])


def _bytes_of(kind: Any) -> Any:
    """Return the type of an image's bytes: in Hugging Face's, of a field of it."""
    return kind.field("bytes").type if _is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind


def _is_struct(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind))


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_integer(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind))


def _class_names(schema: Any, label: str) -> list[str]:
    """Return the names of the labels from Hugging Face's description of the columns, if there is one."""
    described = parse_json((schema.metadata or {}).get(b"huggingface", b""))
    try:
        return [str(name) for name in described["info"]["features"][label]["names"]]
    except (TypeError, KeyError):
        return []
