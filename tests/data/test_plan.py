"""The plan: order, shares, resuming, subsets. No image is opened."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.data.index import ImageIndex, balanced_subset, spread
from suite.data.plan import EvalShare, TrainPlan, TrainShare
from suite.errors import UserError
from suite.experiment import BatchSpec, DataSpec, ModelSpec, RecipeSpec, Run


def index_of(labels: list[int]) -> ImageIndex:
    names = np.array([f"train/{label}/{i}.jpg".encode() for i, label in enumerate(labels)])
    classes = tuple(str(label) for label in range(max(labels) + 1))
    return ImageIndex(Path("/nowhere"), names, np.array(labels), classes)


def run_of(global_batch_size: int, per_gpu: int, seed: int = 1, train_images: int | None = None) -> Run:
    return Run(
        experiment="test",
        model=ModelSpec(arch="resnet18"),
        data=DataSpec(name="test", path="/nowhere", num_classes=10, train_images=train_images),
        batch=BatchSpec(global_batch_size=global_batch_size, batch_size_per_gpu=per_gpu, norm_batch_size=2),
        recipe=RecipeSpec(),
        seed=seed,
    )


def plan_of(num_images: int, global_batch_size: int, seed: int = 1) -> TrainPlan:
    return TrainPlan(index_of([0] * num_images), run_of(global_batch_size, global_batch_size, seed))


def test_an_epoch_shows_each_image_at_most_once_and_drops_the_rest() -> None:
    plan = plan_of(30, 8)
    assert plan.steps_per_epoch == 3
    epochs = [
        np.concatenate([plan.samples(step, 0, 8).images_B for step in range(3 * e, 3 * e + 3)])
        for e in range(2)
    ]
    for images in epochs:
        assert len(set(images.tolist())) == 24
        assert set(images.tolist()) <= set(range(30))
    assert not np.array_equal(*epochs)


def test_order_hangs_on_the_seed() -> None:
    orders = [plan_of(100, 10, seed).order(0) for seed in (1, 1, 2)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_order_is_uniform() -> None:
    """Over many epochs each image is first about equally often: chi-square with 5 degrees of freedom."""
    plan = plan_of(6, 6)
    first = np.bincount([plan.order(epoch)[0] for epoch in range(2400)], minlength=6)
    assert ((first - 400) ** 2 / 400).sum() < 25.7  # p = 0.0001


@given(
    world_size=st.integers(1, 4),
    per_gpu=st.sampled_from([2, 4, 6]),
    micro_batches=st.integers(1, 3),
    start_step=st.integers(0, 9),
)
def test_a_step_sees_the_same_whatever_the_ranks_and_micro_batches(
    world_size: int, per_gpu: int, micro_batches: int, start_step: int
) -> None:
    total = world_size * per_gpu * micro_batches
    plan = plan_of(3 * total + 1, total)
    whole = plan.samples(start_step, 0, total)
    parts = [
        TrainShare(plan, per_gpu, start_step, rank, world_size).batch(micro)
        for micro in range(micro_batches)
        for rank in range(world_size)
    ]
    assert whole.crops is not None
    assert np.array_equal(whole.images_B, np.concatenate([part.images_B for part in parts]))
    for name in ("attempts_B4A", "mirror_B"):
        together = np.concatenate([getattr(part.crops, name) for part in parts])
        assert np.array_equal(getattr(whole.crops, name), together)


def test_resuming_is_starting_later() -> None:
    plan = plan_of(50, 8)
    whole = TrainShare(plan, 4, start_step=0, rank=1, world_size=2)
    for step in (1, 5, 6, 7, 20):
        resumed = TrainShare(plan_of(50, 8), 4, start_step=step, rank=1, world_size=2)
        for number in range(8):
            a, b = whole.batch(step + number), resumed.batch(number)
            assert a.crops is not None
            assert b.crops is not None
            assert np.array_equal(a.images_B, b.images_B)
            assert np.array_equal(a.crops.attempts_B4A, b.crops.attempts_B4A)


@given(num_images=st.integers(1, 40), world_size=st.integers(1, 5), per_batch=st.integers(1, 9))
def test_evaluation_counts_each_image_once(num_images: int, world_size: int, per_batch: int) -> None:
    shares = [EvalShare(index_of([0] * num_images), per_batch, r, world_size) for r in range(world_size)]
    seen = [share.batch(k).images_B for share in shares for k in range(share.num_batches)]
    assert all(0 < len(images) <= per_batch for images in seen)
    assert sorted(np.concatenate(seen).tolist()) == list(range(num_images))


def test_no_two_positions_share_their_draws() -> None:
    plan = plan_of(32, 8)
    draws = [plan.samples(step, 0, 8).crops for step in range(8)]  # two epochs
    firsts = np.concatenate([crops.attempts_B4A[:, 2, 0] for crops in draws if crops is not None])
    assert len(np.unique(firsts)) == 64


def test_too_few_images_for_one_step_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(UserError, match=r"16 exceeds the 10 training images.*10 // 16 = 0"):
        plan_of(10, 16)


def test_subset_is_balanced_and_chosen_by_the_seed() -> None:
    index = index_of([0] * 50 + [1] * 3 + [2] * 50)
    chosen = [TrainPlan(index, run_of(4, 2, seed, train_images=20)).index for seed in (1, 1, 2)]
    # Class 1 has only three; the others share the rest.
    assert sorted(np.bincount(chosen[0].labels_N).tolist()) == [3, 8, 9]
    assert np.array_equal(chosen[0].names_N, chosen[1].names_N)
    assert not np.array_equal(chosen[0].names_N, chosen[2].names_N)


def test_subset_takes_the_smallest_keys_of_each_class() -> None:
    keys = np.array([5, 1, 3, 9, 2, 4], dtype=np.uint64)
    picked = balanced_subset(index_of([0, 0, 0, 1, 1, 1]), 4, keys)
    assert picked.names_N.tolist() == [b"train/0/1.jpg", b"train/0/2.jpg", b"train/1/4.jpg", b"train/1/5.jpg"]


def test_spread_keeps_every_class() -> None:
    picked = spread(index_of([0] * 10 + [1] * 10 + [2] * 10), 6)
    assert picked.labels_N.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("subset", "field"),
    [
        (lambda index: spread(index, 7), "val_images is 7"),
        (lambda index: TrainPlan(index, run_of(2, 2, train_images=7)), "train_images is 7"),
    ],
)
def test_more_images_than_there_are_is_refused(subset: Callable[[ImageIndex], object], field: str) -> None:
    with pytest.raises(UserError, match=f"{field}, but /nowhere has only 6"):
        subset(index_of([0] * 6))
