"""The plan of detection: groups, mirrors, shares, resuming. No image is opened."""

from pathlib import Path

import numpy as np
import pytest

from suite.data.plan import TrainShare
from suite.detection.coco import CocoIndex
from suite.detection.coco_json import Instances
from suite.detection.plan import Batching, DetectionPlan, grouped
from suite.errors import UserError


def index_of(num_images: int, seed: int = 0) -> CocoIndex:
    """Images that are wide or tall, with one box each."""
    heights, widths = np.random.default_rng(seed).integers(50, 200, (2, num_images))
    ids, ones = np.arange(num_images), np.ones(num_images)
    boxes = np.tile([1.0, 1.0, 9.0, 9.0], (num_images, 1))
    empty = np.zeros(0, np.uint8), np.zeros(num_images, np.int64)
    instances = Instances(ids, boxes, ones.astype(np.int32), ones, ones < 0, *empty)
    names = np.array([f"{i}.jpg".encode() for i in ids])
    rows = np.stack([ids, ids + 1], 1)
    place = Path("/nowhere")
    return CocoIndex(place, place / "x.json", ids, names, heights, widths, (1,), ("a",), rows, instances)


def plan_of(
    num_images: int, total: int, per_gpu: int, seed: int = 1, subset: int | None = None, flip: bool = True
) -> DetectionPlan:
    return DetectionPlan(index_of(num_images), Batching(seed, total, per_gpu, subset, flip))


def test_images_are_grouped_by_hand() -> None:
    """In the order of the keys 0 1 2 …: wide w, tall t; pairs, by their first image; then what is left."""
    is_wide = np.array([kind == "w" for kind in "wtwtttwww"])
    keys = np.arange(9).astype(np.uint64)
    assert grouped(keys, is_wide, 2).tolist() == [0, 2, 1, 3, 4, 5, 6, 7, 8]
    assert grouped(keys, is_wide, 3).tolist() == [0, 2, 6, 1, 3, 4, 7, 8, 5]
    assert grouped(keys[::-1].copy(), is_wide, 2).tolist() == [8, 7, 6, 2, 5, 4, 3, 1, 0]


def test_a_pass_sees_images_of_one_kind_and_an_epoch_each_at_most_once() -> None:
    plan = plan_of(101, 8, 4)
    is_wide = plan.index.widths_N >= plan.index.heights_N
    assert plan.steps_per_epoch == 12
    for epoch in range(2):
        images = [plan.samples(12 * epoch + s, f, 4).images_B for s in range(12) for f in (0, 4)]
        assert len(set(np.concatenate(images).tolist())) == 96
        mixed = sum(len(set(is_wide[one].tolist())) > 1 for one in images)
        assert mixed <= 2  # of images that fill no group of their kind


def test_a_step_sees_the_same_whatever_the_ranks() -> None:
    for world_size, per_gpu in ((1, 2), (2, 2), (4, 2)):
        plan = plan_of(60, 8, per_gpu)
        whole = plan.samples(9, 0, 8)
        parts = [
            TrainShare(plan, per_gpu, 9, rank, world_size).batch(micro)
            for micro in range(8 // (per_gpu * world_size))
            for rank in range(world_size)
        ]
        assert whole.images_B.tolist() == np.concatenate([part.images_B for part in parts]).tolist()
        mirrors = [part.crops.mirror_B for part in parts if part.crops is not None]
        assert whole.crops is not None
        assert whole.crops.mirror_B.tolist() == np.concatenate(mirrors).tolist()


def test_resuming_is_starting_later_and_the_seed_decides() -> None:
    first, again, other = plan_of(60, 8, 2), plan_of(60, 8, 2), plan_of(60, 8, 2, seed=2)
    for step in range(5, 12):
        one, two = first.samples(step, 0, 8), again.samples(step, 0, 8)
        assert one.images_B.tolist() == two.images_B.tolist()
        assert one.crops is not None
        assert two.crops is not None
        assert one.crops.mirror_B.tolist() == two.crops.mirror_B.tolist()
    assert first.order(0).tolist() != other.order(0).tolist() != first.order(1).tolist()


def test_no_two_positions_share_a_mirror() -> None:
    plan = plan_of(200, 64, 2)
    crops = [plan.samples(step, 0, 64).crops for step in range(6)]
    mirrors = {tuple(one.mirror_B.tolist()) for one in crops if one is not None}
    assert len(mirrors) == 6


def test_half_of_the_images_are_mirrored_unless_flip_is_off() -> None:
    def mirrors(flip: bool) -> float:
        plan = plan_of(2000, 2000, 2, flip=flip)
        crops = [plan.samples(step, 0, 2000).crops for step in range(2)]
        assert crops[0] is not None
        assert crops[1] is not None
        assert not flip or not np.array_equal(crops[0].mirror_B, crops[1].mirror_B)
        return float(crops[0].mirror_B.mean())

    assert abs(mirrors(True) - 0.5) < 0.05
    assert mirrors(False) == 0


def test_a_subset_is_chosen_by_the_seed_and_too_few_are_refused() -> None:
    chosen = [plan_of(60, 4, 2, seed, subset=20).index.image_ids_N.tolist() for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(set(chosen[0])) == 20
    with pytest.raises(UserError, match=r"train_images is 70, but /nowhere has only 60 images with boxes"):
        plan_of(60, 4, 2, subset=70)
    with pytest.raises(UserError, match="global_batch_size 64 exceeds the 60 training images"):
        plan_of(60, 64, 2)
