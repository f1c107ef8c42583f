"""What `shiftbench probe` takes from a run, and what its options change."""

from pathlib import Path
from typing import Any

import pytest

from jobs.commands.probe_target import choose_specs
from suite.config import expand
from suite.data.pack_writer import sources_of, write_pack
from suite.errors import UserError
from suite.experiment import DataSpec, Run

CONTENT = {
    "model": {"arch": "small_resnet11", "norm": {"kind": "xbn"}},
    "data": {"name": "fashion-mnist-7k", "image_size": 28, "val_images": 40, "loader": "torchvision"},
}


@pytest.fixture
def run() -> Run:
    return expand(CONTENT, "probed").runs[0]


def specs(run: Run | None, **options: Any) -> Any:
    names = ("arch", "norm", "data", "image_size", "num_classes")
    return choose_specs(run, **{name: options.get(name) for name in names})


def test_a_run_gives_its_model_and_data(run: Run) -> None:
    assert specs(run) == (run.model, run.data)


def test_other_data_at_the_size_of_the_run(run: Run) -> None:
    model, data = specs(run, data="fashion-mnist")
    assert model == run.model
    assert (data.name, data.image_size, data.eval_resize, data.loader) == (
        "fashion-mnist",
        28,
        32,
        "torchvision",
    )
    assert data.val_images is None


def test_an_image_folder_with_the_classes_of_the_run(run: Run, tmp_path: Path) -> None:
    _, data = specs(run, data=str(tmp_path))
    assert (data.path, data.num_classes, data.image_size) == (str(tmp_path), 10, 28)
    _, data = specs(run, data=str(tmp_path), num_classes=7)
    assert data.num_classes == 7
    (tmp_path / "fashion-mnist-7k").mkdir()
    _, moved = specs(run, data=str(tmp_path / "fashion-mnist-7k"))
    assert (moved.val_images, moved.num_classes) == (40, 10)


def test_a_pack_says_how_many_classes_it_has(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"in/val/{name}").mkdir(parents=True)
        (tmp_path / f"in/val/{name}/1.jpg").write_bytes(b"x")
    pack = write_pack(*sources_of(tmp_path / "in"), tmp_path / "pack").folder
    _, data = specs(None, arch="small_resnet11", data=str(pack), image_size=28)
    assert (data.path, data.num_classes) == (str(pack), 3)


def test_another_size_of_the_same_data(run: Run) -> None:
    _, data = specs(run, image_size=56)
    assert (data.name, data.val_images, data.image_size, data.eval_resize) == (
        "fashion-mnist-7k",
        40,
        56,
        64,
    )


def test_without_a_run(tmp_path: Path) -> None:
    model, data = specs(None, arch="resnet18", data=str(tmp_path), num_classes=3, norm="{kind: xbn}")
    assert (model.arch, model.norm.kind, model.num_classes) == ("resnet18", "xbn", 3)
    assert data == DataSpec(name=tmp_path.name, path=str(tmp_path), num_classes=3, loader="auto")


def test_an_option_without_effect_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="--norm: the checkpoint's run has its own norms"):
        specs(run, norm="{kind: bn}")
    with pytest.raises(UserError, match="num_classes is 7, but fashion-mnist-7k has 10"):
        specs(run, num_classes=7)


# ------------------------------------------------------------ any network, by name
