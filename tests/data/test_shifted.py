"""The images of shifts: the same bytes for every network, rank, batch and loader, and the right labels."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from suite.data import folder_loader
from suite.data.corruptions import corrupted
from suite.data.idx import read_split
from suite.data.loader import MEAN, STD
from suite.data.shifted import corrupted_copy, open_shift
from suite.data.shifts import CLEAN, Shift, folder_shifts, planned_shifts, planned_streams
from suite.data.sources import SUBSET_FOLDER
from suite.data.vision import decode_bytes
from suite.errors import UserError
from suite.experiment import DataSpec
from suite.specs.robustness import RobustnessPlan

CPU = torch.device("cpu")
FOG = Shift("fog", "corruption", 3)
SMALL = DataSpec(
    name="fashion-mnist-7k", loader="memory", image_size=14, eval_resize=14, crop_area=(1, 1), flip=False
)


def of_pictures(folder: Path, loader: str = "torchvision") -> DataSpec:
    return DataSpec(name="pictures", path=str(folder), num_classes=3, image_size=48, loader=loader)


def images(shift: Shift, data: DataSpec, **options: Any) -> tuple[Tensor, Tensor]:
    """All images and labels, ordered by label and then by their pixels."""
    opened = open_shift(shift, data, **{"images_per_batch": 4, "device": CPU, **options})
    try:
        batches = list(opened.loader)
    finally:
        opened.loader.close()
    return torch.cat([b.images_NCHW for b in batches]), torch.cat([b.labels_N for b in batches])


def sorted_bytes(found: tuple[Tensor, Tensor]) -> list[tuple[int, bytes]]:
    return sorted((int(label), image.numpy().tobytes()) for image, label in zip(*found, strict=True))


@pytest.mark.parametrize("data", ["idx", "files"])
def test_ranks_batches_workers_and_loaders_give_the_same_bytes(pictures: Path, data: str) -> None:
    spec, count = (SMALL, 30) if data == "idx" else (of_pictures(pictures), None)
    whole = images(FOG, spec, num_images=count)
    expected = sorted_bytes(whole)
    other_batches = images(FOG, spec, num_images=count, images_per_batch=7, num_workers=1, seed=3)
    assert not torch.equal(whole[0], other_batches[0])  # another order
    assert sorted_bytes(other_batches) == expected
    ranks = [images(FOG, spec, num_images=count, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(one for rank in ranks for one in sorted_bytes(rank)) == expected
    if data == "files":
        assert sorted_bytes(images(FOG, of_pictures(pictures, "dali"))) == expected
    clean = sorted_bytes(images(CLEAN, spec, num_images=count))
    assert [label for label, _ in clean] == [label for label, _ in expected]
    assert clean != expected


def test_a_file_is_corrupted_after_its_crop_with_its_name_as_key(pictures: Path) -> None:
    data = of_pictures(pictures)
    clean_NCHW, labels_N = images(CLEAN, data, order="by_label")
    foggy_NCHW, _ = images(FOG, data, order="by_label")
    names = sorted(path.name for path in (pictures / "val" / "class-0").iterdir())
    assert labels_N[: len(names)].tolist() == [0] * len(names)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    for clean_CHW, foggy_CHW, name in zip(clean_NCHW, foggy_NCHW, names, strict=False):
        pixels_HWC = ((clean_CHW * std + mean) * 255).round().byte().permute(1, 2, 0).numpy()
        expected_HWC = corrupted(np.ascontiguousarray(pixels_HWC), "fog", 3, f"class-0/{name}")
        found_HWC = ((foggy_CHW * std + mean) * 255).round().byte().permute(1, 2, 0).numpy()
        assert (found_HWC == expected_HWC).all()


def test_small_images_are_corrupted_whole_and_made_smaller_afterwards() -> None:
    found_NCHW, labels_N = images(Shift("contrast", "corruption", 5), SMALL, num_images=20, order="by_label")
    pixels_NHW, all_labels_N = read_split(SUBSET_FOLDER, "val")
    order = np.argsort(all_labels_N, kind="stable")
    chosen = order[(2 * np.arange(20) + 1) * len(order) // 40]
    assert labels_N.tolist() == all_labels_N[chosen].tolist()
    first = corrupted(pixels_NHW[chosen[0]], "contrast", 5, str(chosen[0]))
    smaller = first.reshape(14, 2, 14, 2).mean(axis=(1, 3)).round()
    expected = (torch.from_numpy(smaller / 255).float() - MEAN[0]) / STD[0]
    assert torch.allclose(found_NCHW[0, 0], expected, atol=1e-6)


def test_a_copy_is_written_once_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from suite.data import split_index

    index = split_index(SMALL, "val", 23)
    folder = corrupted_copy(SMALL, index, "pixelate", 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    ]
    monkeypatch.setattr("suite.data.shifted.corrupted", None)  # a call would raise
    assert corrupted_copy(SMALL, index, "pixelate", 2) == folder
    other = split_index(SMALL, "val", 24)
    with pytest.raises(TypeError):
        corrupted_copy(SMALL, other, "pixelate", 2)
    assert not [path for path in folder.parent.parent.rglob("pixelate-2") if path != folder]


# ---------------------------------------------------------------- folders


@pytest.fixture
def shifted_folder(pictures: Path, tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """A folder whose classes are copies of validation classes under other names."""

    def make(names: dict[str, str]) -> Path:
        for name, of in names.items():
            shutil.copytree(pictures / "val" / of, tmp_path / "shift" / name)
        return tmp_path / "shift"

    return make


def test_a_folder_with_some_classes_masks_the_others(
    pictures: Path, shifted_folder: Callable[[dict[str, str]], Path]
) -> None:
    folder = shifted_folder({"class-2": "class-2", "class-0": "class-0"})
    (shift,) = folder_shifts("sketches", folder)
    opened = open_shift(shift, of_pictures(pictures), images_per_batch=4, device=CPU)
    labels = sorted(int(label) for batch in opened.loader for label in batch.labels_N)
    assert set(labels) == {0, 2}
    assert opened.outputs_K == [0, 2]
    assert open_shift(CLEAN, of_pictures(pictures), images_per_batch=4, device=CPU).outputs_K is None


def test_folders_that_are_numbers_are_the_networks_outputs(
    pictures: Path, shifted_folder: Callable[[dict[str, str]], Path]
) -> None:
    folder = shifted_folder({"0": "class-2", "1": "class-1", "2": "class-0"})
    (shift,) = folder_shifts("v2", folder)
    _, labels_N = images(shift, of_pictures(pictures), order="by_label")
    counts = [len(list((pictures / "val" / f"class-{k}").iterdir())) for k in (2, 1, 0)]
    assert torch.bincount(labels_N).tolist() == counts


def test_imagenet_c_is_a_shift_for_each_corruption_and_severity_and_is_not_resized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from suite.specs.corruption_table import RELEASED

    small = dataclasses.replace(RELEASED["imagenet-c"], num_classes=2)
    monkeypatch.setitem(RELEASED, "imagenet-c", small)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
    for where in ("val/a", "val/b", "c/fog/1/a", "c/fog/1/b", "c/frost/5/a", "c/frost/5/b"):
        (tmp_path / where).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / where / "one.png")
    shifts = folder_shifts("imagenet-c", tmp_path / "c")
    assert [(one.name, one.severity, one.kind) for one in shifts] == [
        ("fog", 1, "folder"),
        ("frost", 5, "folder"),
    ]
    data = DataSpec(name="x", path=str(tmp_path), num_classes=2, image_size=48, loader="torchvision")
    found_NCHW, _ = images(shifts[0], data)
    decoded = decode_bytes(np.fromfile(tmp_path / "c/fog/1/a/one.png", np.uint8))
    assert isinstance(decoded, Tensor)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    assert torch.allclose(found_NCHW[0], (decoded / 255 - mean) / std, atol=1e-6)
    (tmp_path / "c/fog/6").mkdir()
    with pytest.raises(UserError, match="fog/6: expected a severity, 1 to 5"):
        folder_shifts("imagenet-c", tmp_path / "c")


@pytest.mark.parametrize(
    ("name", "made", "message"),
    [
        ("x", None, "is not a folder"),
        ("x", [], "has no class folders"),
        ("imagenet-r", ["a", "b"], "imagenet-r has 200 class folders, not 2"),
        ("imagenet-c", [], "has no folders CORRUPTION/SEVERITY/CLASS"),
        ("imagenet-c", ["rain/1/a"], "corruption 'rain' is unknown"),
        ("imagenet-c", ["fog/1"], "has no class folders"),
    ],
)
def test_folders_that_are_no_shift_are_refused(
    tmp_path: Path, name: str, made: list[str] | None, message: str
) -> None:
    folder = tmp_path / "shift"
    for part in made or ():
        (folder / part).mkdir(parents=True)
    if made == []:
        folder.mkdir()
    with pytest.raises(UserError, match=message):
        folder_shifts(name, folder)


def test_an_empty_class_folder_is_refused(pictures: Path, tmp_path: Path) -> None:
    for name in ("class-0", "class-1"):
        (tmp_path / "shift" / name).mkdir(parents=True)
    (shift,) = folder_shifts("x", tmp_path / "shift")
    with pytest.raises(UserError, match="a class folder without images"):
        open_shift(shift, of_pictures(pictures), images_per_batch=4, device=CPU)


# ---------------------------------------------------------------- arrays


def write_arrays(folder: Path, names: tuple[str, ...] = ("fog", "sketch"), count: int = 30) -> np.ndarray:
    """As CIFAR-10-C is released; the pixels of an image are its row and its file."""
    folder.mkdir()
    labels_N = np.arange(count) % 3
    np.save(folder / "labels.npy", labels_N)
    for place, name in enumerate(names):
        images_NHWC = np.zeros((count, 48, 48, 3), dtype=np.uint8)
        images_NHWC += (np.arange(count) + 100 * place).astype(np.uint8)[:, None, None, None]
        np.save(folder / f"{name}.npy", images_NHWC)
    return labels_N


def test_arrays_as_cifar_c_has_them(pictures: Path, tmp_path: Path) -> None:
    labels_N = write_arrays(tmp_path / "c")
    shifts = folder_shifts("cifar-c", tmp_path / "c")
    assert [(one.name, one.severity) for one in shifts] == [
        *(("fog", s) for s in range(1, 6)),
        ("sketch", None),
    ]
    found_NCHW, found_N = images(shifts[2], of_pictures(pictures), order="by_label")
    rows = np.arange(12, 18)  # the third fifth of thirty
    rows = rows[np.argsort(labels_N[rows], kind="stable")]
    assert found_N.tolist() == labels_N[rows].tolist()
    pixels = (found_NCHW[:, 0, 5, 5] * STD[0] + MEAN[0]) * 255
    assert pixels.round().int().tolist() == rows.tolist()
    whole, _ = images(shifts[5], of_pictures(pictures).model_copy(update={"image_size": 24}))
    assert whole.shape == (30, 3, 24, 24)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: np.save(folder / "labels.npy", np.zeros(29, dtype=int)), "expected 30 labels"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(30)), "whole numbers from 0"),
        (lambda folder: np.save(folder / "labels.npy", np.full(30, 7)), "none of its 1 classes"),
        (
            lambda folder: np.save(folder / "fog.npy", np.zeros((30, 48, 48))),
            r"expected \(N, H, W, 3\) of uint8",
        ),
        (lambda folder: (folder / "fog.npy").write_bytes(b"no"), "cannot be read as a NumPy array"),
    ],
)
def test_arrays_that_are_not_as_released_are_refused(
    pictures: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    write_arrays(tmp_path / "c")
    damage(tmp_path / "c")
    with pytest.raises(UserError, match=message):
        open_shift(
            folder_shifts("x", tmp_path / "c")[0], of_pictures(pictures), images_per_batch=4, device=CPU
        )


def test_a_number_of_images_that_is_not_five_severities_is_refused(pictures: Path, tmp_path: Path) -> None:
    write_arrays(tmp_path / "c", count=31)
    (fog, *_) = folder_shifts("x", tmp_path / "c")
    with pytest.raises(UserError, match="has 31 images, which are not 5 severities of as many"):
        open_shift(fog, of_pictures(pictures), images_per_batch=4, device=CPU)


# ---------------------------------------------------------------- plans


def test_a_plan_names_shifts_and_streams(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "art" / name).mkdir(parents=True)
    plan = RobustnessPlan(
        corruptions=("fog", "contrast"),
        severities=(5, 1),
        folders={"art": str(tmp_path / "art")},
        methods=("frozen",),
        images_per_batch=(1, 8),
        orders=("mixed", "by_label"),
    )
    assert [(one.name, one.severity) for one in planned_shifts(plan)] == [
        ("clean", None), ("fog", 1), ("fog", 5), ("contrast", 1), ("contrast", 5), ("art", None),
    ]  # fmt: skip
    streams = list(planned_streams(plan))
    assert len(streams) == 5 * 4
    assert [one.key(None)[0] for one in streams[::4]] == [
        (("clean", None),),
        (("fog", 5),),
        (("contrast", 5),),
        (("art", None),),
        (("fog", 5), ("contrast", 5)),
    ]  # fmt: skip
    assert [one.images_per_batch for one in streams[-4:]] == [2, 8, 2, 8]  # one of each at least


def test_batches_of_a_mixed_stream_that_come_out_alike_are_one_stream() -> None:
    plan = RobustnessPlan(
        corruptions=("fog", "contrast", "frost"),
        severities=(1,),
        methods=("frozen",),
        images_per_batch=(1, 2, 8),
    )
    mixed = [one for one in planned_streams(plan) if len(one.shifts) > 1]
    assert [(one.images_per_batch, one.images_of_each) for one in mixed] == [(3, 1), (6, 2)]


def test_a_corruption_without_severity_is_no_shift() -> None:
    for severity in (None, 0, 6):
        with pytest.raises(UserError, match="severity of fog: expected 1 to 5"):
            Shift("fog", "corruption", severity)


def test_colour_is_refused_on_grey_images_whatever_reads_them(fashion: Path) -> None:
    data = DataSpec(name="fashion-mnist-7k", image_size=28, loader="torchvision")
    with pytest.raises(UserError, match="'saturate' says nothing about grey images"):
        open_shift(Shift("saturate", "corruption", 1), data, images_per_batch=4, device=CPU)


def test_two_shifts_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fog" / "a").mkdir(parents=True)
    plan = RobustnessPlan(corruptions=("fog",), severities=(1,), folders={"clean": str(tmp_path / "fog")})
    with pytest.raises(UserError, match="two shifts have the same name"):
        planned_shifts(plan)


def test_clean_images_are_those_of_the_loaders(pictures: Path) -> None:
    data = of_pictures(pictures)
    loader = folder_loader(data, "val", images_per_batch=4, device=CPU)
    try:
        expected = torch.cat([batch.images_NCHW for batch in loader])
    finally:
        loader.close()
    found, _ = images(CLEAN, data, order="by_label")
    assert torch.equal(found, expected)
