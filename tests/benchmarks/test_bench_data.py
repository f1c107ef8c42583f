"""What the benchmark of data makes up is what it says, and its lists are measured."""

import subprocess
from pathlib import Path

from PIL import Image

from benchmarks.data import UNPACK, _place, write_official_tars
from benchmarks.data_index import bench_index
from suite.data.importing import Labels, find_images
from suite.data.index import scan


def test_its_tars_are_those_of_the_folder(tmp_path: Path) -> None:
    for number in range(240):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(_place(tmp_path / "folder", number), "JPEG")
    write_official_tars(tmp_path / "folder", tmp_path / "tars")
    found = find_images(tmp_path / "tars", Labels(), None)
    for split in ("train", "val"):
        index = scan(tmp_path / "folder", split)
        assert found.classes == index.classes
        assert sorted(found.sources[split].names) == [name.partition(b"/")[2] for name in index.names_N]
    assert found.num_images == 240
    subprocess.run(["sh", "-c", UNPACK, "sh", tmp_path / "tars", tmp_path / "out"], check=True)
    assert (
        scan(tmp_path / "out", "train").names_N.tolist()
        == scan(tmp_path / "folder", "train").names_N.tolist()
    )
    assert len(list((tmp_path / "out/val").iterdir())) == 24


def test_lists_are_measured(tmp_path: Path) -> None:
    measured = bench_index(1200, tmp_path)
    for one in (measured.listed, measured.cached, measured.packed):
        assert one.duration_s > 0
    assert not list(tmp_path.iterdir())
