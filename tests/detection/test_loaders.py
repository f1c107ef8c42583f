"""Detection's loaders: what a batch holds, parity of DALI and torchvision, bad files, shares."""

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from suite.detection import vision
from suite.detection.batch import DetectionBatch
from suite.detection.coco import read_split
from suite.detection.loaders import (
    check_detection_data,
    detection_steps_per_epoch,
    detection_train_loader,
    detection_val_loader,
)
from suite.detection.masks import mask_of
from suite.detection.plan import Batching, DetectionPlan
from suite.detection.resize import Resize
from suite.detection.vision import decode_sized
from suite.errors import UserError
from tests.helpers.coco_folder import box, small_content, write_coco
from tests.helpers.detection_runs import detection_run

CPU = torch.device("cpu")
LOADERS = ("torchvision", "dali")


def training(
    folder: Path, loader: str, count: int, start_step: int = 0, **more: object
) -> list[DetectionBatch]:
    run = detection_run(folder, loader=loader, **more)  # type: ignore[arg-type]
    batches = detection_train_loader(run, start_step=start_step, rank=0, world_size=1, device=CPU)
    return list(islice(batches, count))


@pytest.fixture(scope="module")
def batches(small_scenes: Path) -> dict[str, list[DetectionBatch]]:
    """The first ten passes of two images by each loader: some mirrored, an epoch being fourteen."""
    return {loader: training(small_scenes, loader, 10) for loader in LOADERS}


@pytest.mark.parametrize("loader", LOADERS)
def test_batches_are_torchvisions_transforms_of_the_plan(
    loader: str, batches: dict[str, list[DetectionBatch]], small_scenes: Path
) -> None:
    """Boxes and masks within a pixel, pixels within a grey value, against transforms v2 of whole samples."""
    plan = DetectionPlan(read_split(detection_run(small_scenes).data, "train"), Batching(5, 4, 2))
    mirrored = 0
    for number, batch in enumerate(batches[loader]):
        samples = plan.samples(number // 2, 2 * (number % 2), 2)
        assert samples.crops is not None
        for j, image in enumerate(samples.images_B.tolist()):
            height, width = plan.index.shape(image)
            pixels = decode_sized(plan.index, image)
            assert isinstance(pixels, torch.Tensor)
            masks = [mask_of(one, height, width, "") for one in plan.index.segmentations(image)]
            boxes = tv_tensors.BoundingBoxes(
                torch.from_numpy(plan.index.boxes(image)), format="XYXY", canvas_size=(height, width)
            )
            size = list(Resize(80, 120).shape(height, width))
            flip = v2.RandomHorizontalFlip(float(samples.crops.mirror_B[j]))
            mirrored += int(samples.crops.mirror_B[j])
            whole = v2.Compose([v2.Resize(size, antialias=True), flip])
            expected = whole(
                tv_tensors.Image(pixels), {"boxes": boxes, "masks": tv_tensors.Mask(np.stack(masks))}
            )
            target = batch.targets[j]
            assert (batch.images[j] * 255 - expected[0]).abs().max() <= 1.01
            assert (target["boxes"] - expected[1]["boxes"]).abs().max() < 1e-3
            assert torch.equal(target["masks"], expected[1]["masks"])
            assert target["labels"].tolist() == plan.index.labels(image).tolist()
            assert target["image_id"].tolist() == [plan.index.image_ids_N[image]]
            assert target["size"].tolist() == size
            assert target["orig_size"].tolist() == [height, width]
    assert 0 < mirrored < 20


def test_dali_equals_torchvision(batches: dict[str, list[DetectionBatch]]) -> None:
    for one, two in zip(*batches.values(), strict=True):
        for image, other in zip(one.images, two.images, strict=True):
            assert (image - other).abs().max() <= 2 / 255
        for target, other_target in zip(one.targets, two.targets, strict=True):
            assert target.keys() == other_target.keys()
            assert all(torch.equal(target[key], other_target[key]) for key in target)


def test_auto_is_dali_where_that_is_installed(
    batches: dict[str, list[DetectionBatch]], small_scenes: Path
) -> None:
    (one,) = training(small_scenes, "auto", 1)
    assert all(map(torch.equal, one.images, batches["dali"][0].images))


def test_of_a_target_masks_alone_go_through_shared_memory(
    small_scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tensor of a message needs a shared memory of its own, which costs more than its numbers."""
    kinds = dict[str, type]()

    def noted(target: dict[str, Any]) -> dict[str, torch.Tensor]:
        kinds.update({key: type(value) for key, value in target.items()})
        return received(target)

    received = vision._received
    monkeypatch.setattr(vision, "_received", noted)
    training(small_scenes, "torchvision", 1)
    assert [key for key, kind in kinds.items() if kind is torch.Tensor] == ["masks"]
    assert len(kinds) == 8


@pytest.mark.parametrize("loader", LOADERS)
def test_resuming_in_mid_epoch_gives_the_same_batches(
    loader: str, batches: dict[str, list[DetectionBatch]], small_scenes: Path
) -> None:
    resumed = training(small_scenes, loader, 4, start_step=3)
    for one, two in zip(batches[loader][6:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.images, two.images, strict=True))
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(one.targets, two.targets, strict=True))


@pytest.mark.parametrize("loader", LOADERS)
def test_evaluation_gives_each_image_once_over_the_ranks(loader: str, small_scenes: Path) -> None:
    run = detection_run(small_scenes, loader=loader, masks=False)
    seen = [
        int(target["image_id"])
        for rank in range(2)
        for batch in detection_val_loader(run, images_per_batch=2, rank=rank, world_size=2, device=CPU)
        for target in batch.targets
    ]
    assert seen == list(range(1, 12))


def test_torchvisions_own_transform_leaves_the_images_as_they_are() -> None:
    """Over sizes and limits; and the rule gives the sizes of that transform, up to its rounding."""
    assert Resize(800, 1333).shape(480, 640) == (800, 1066)  # 800 × 640 / 480 = 1066.7
    assert Resize(800, 1333).shape(640, 200) == (1333, 416)  # 1333 × 200 / 640 = 416.6
    for sizes in ((800, 1333), (80, 120), (600, 600)):
        network = GeneralizedRCNNTransform(*sizes, [0.0] * 3, [1.0] * 3)
        for height, width in [
            (480, 640),
            (427, 640),
            (640, 200),
            (100, 2000),
            (97, 97),
            (333, 500),
            (1, 900),
        ]:
            shape = Resize(*sizes).shape(height, width)
            again, _ = network.resize(torch.empty(1, *shape))
            assert again.shape[1:] == shape
            if min(height, width) > 1:
                theirs, _ = network.resize(torch.empty(1, height, width))
                assert np.abs(np.array(theirs.shape[1:]) - shape).max() <= 1


def test_crowds_boxes_without_area_and_outside_are_handled_as_by_torchvisions_reference(
    tmp_path: Path,
) -> None:
    content = small_content()
    content["annotations"] += [
        box(6, 50, [1, 1, 9, 9], iscrowd=1, segmentation={"size": [32, 32], "counts": [1024]}),
        box(7, 50, [3, 3, 0, 7]),
        box(8, 50, [20, 10, 40, 10], 7),
    ]
    folder = write_coco(tmp_path / "set", content, content)
    run = detection_run(folder, 2, sizes=(64, 64), batch=(2, 2), loader="torchvision", flip=False)
    assert detection_steps_per_epoch(run) == 1  # the images 40 and 50 alone have boxes to train on
    (batch,) = islice(detection_val_loader(run, images_per_batch=5, rank=0, world_size=1, device=CPU), 1)
    assert [len(target["boxes"]) for target in batch.targets] == [0, 0, 0, 2, 2]
    assert batch.targets[4]["boxes"].tolist() == [[0, 0, 60, 60], [40, 20, 64, 40]]
    assert batch.targets[4]["labels"].tolist() == [1, 2]
    assert batch.targets[0]["masks"].shape == (0, *batch.images[0].shape[1:])


BREAK: dict[str, Callable[[Path], object]] = {
    "cannot be read: No such file": lambda path: path.unlink(),
    "empty file": lambda path: path.write_bytes(b""),
    "is 24 × 50 pixels, but instances_": lambda path: shutil.copy(path.with_name("other.png"), path),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_bad_images_are_replaced_in_training_and_left_out_in_evaluation(loader: str, tmp_path: Path) -> None:
    content = small_content()
    content["images"] = [dict(one, height=50, width=30) for one in content["images"]]
    content["annotations"] = [box(i, one["id"], [2, 2, 9, 9]) for i, one in enumerate(content["images"])]
    folder = write_coco(tmp_path / "set", content, content)
    bad = dict(zip(("010.png", "030.png", "050.png"), BREAK, strict=True))
    for split in ("train", "val"):
        Image.new("RGB", (24, 50)).save(folder / split / "other.png")
        for name, reason in bad.items():
            BREAK[reason](folder / split / name)
    run = detection_run(folder, 2, batch=(4, 2), loader=loader, masks=False)
    batches = detection_train_loader(run, start_step=0, rank=0, world_size=1, device=CPU)
    ids = [[int(t["image_id"]) for t in batch.targets] for batch in islice(batches, 8)]
    assert {len(one) for one in ids} == {2}
    assert {image for one in ids for image in one} == {20, 40}
    validation = detection_val_loader(run, images_per_batch=2, rank=0, world_size=1, device=CPU)
    assert [int(t["image_id"]) for batch in validation for t in batch.targets] == [20, 40]
    for found, split in ((batches, "train"), (validation, "val")):
        reasons = {Path(path).name: reason for path, reason in found.bad_images.items()}
        assert reasons.keys() == bad.keys()
        assert all(reasons[name].startswith(reason) for name, reason in bad.items()), (split, reasons)
        found.close()


@pytest.mark.parametrize("loader", LOADERS)
def test_a_mask_that_is_none_ends_the_loader_with_its_place(loader: str, tmp_path: Path) -> None:
    content = small_content()
    content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
    folder = write_coco(tmp_path / "set", content)
    with pytest.raises(UserError) as error:
        training(folder, loader, 1, num_classes=2, batch=(2, 2))
    place = f"{folder}/annotations/instances_train.json: box 1 of image 50"
    assert str(error.value).startswith(f"{place}: `segmentation` is [[1, 2, 3, 4]]; expected polygons")


def test_what_training_would_refuse_is_refused_before(small_scenes: Path, tmp_path: Path) -> None:
    check_detection_data(detection_run(small_scenes))
    with pytest.raises(UserError, match=r"val_images is 12, but .* has only 11 images"):
        check_detection_data(detection_run(small_scenes, val_images=12))
    content = small_content()
    del content["annotations"][1]["segmentation"]
    folder = write_coco(tmp_path / "set", content)
    with pytest.raises(UserError, match=r"instances_train\.json: 1 boxes have no mask"):
        check_detection_data(detection_run(folder, 2, batch=(2, 2)))
    check_detection_data(detection_run(folder, 2, batch=(2, 2), masks=False))
    memory = {"loader": "memory", "crop_area": (1, 1), "flip": False, "eval_resize": 224}
    with pytest.raises(UserError, match="memory reads no images with boxes; take dali, auto or torchvision"):
        detection_run(small_scenes, **memory)
