"""Federated clients' images: who has which, label skew, and the order in which a client sees them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite.data.clients import FederatedPlan, dirichlet, split_by_shares, with_shares
from suite.data.index import ImageIndex
from suite.errors import UserError
from tests.helpers.runs import make_run


def index(counts: list[int]) -> ImageIndex:
    labels_N = np.repeat(np.arange(len(counts)), counts)
    names_N = np.array([str(number) for number in range(len(labels_N))], dtype=np.bytes_)
    return ImageIndex(Path("/images"), names_N, labels_N, tuple(map(str, range(len(counts)))))


def plan(counts: list[int], **federated: Any) -> FederatedPlan:
    federated = {"clients": 4, "local_steps": 2, **federated}
    run = make_run(
        data={"name": "some", "path": "/images", "num_classes": len(counts), "image_size": 28},
        batch={"global_batch_size": 4},
        recipe={"epochs": 6, "federated": federated},
    )
    return FederatedPlan(index(counts), run)


@pytest.mark.parametrize("skew", [None, 0.05, 1.0, 1000.0])
def test_each_client_has_as_many_images_and_none_in_common(skew: float | None) -> None:
    one = plan([20, 20, 26], label_skew=skew)
    assert one.images_per_client == 16
    assert np.bincount(one.client_N + 1).tolist() == [2, 16, 16, 16, 16]  # two images are left over
    np.testing.assert_allclose(one.shares_KC.sum(axis=1), 1)
    by_hand = [np.bincount(one.index.labels_N[one.client_N == k], minlength=3) / 16 for k in range(4)]
    np.testing.assert_array_equal(one.shares_KC, by_hand)


def test_skewed_clients_have_few_classes_and_others_have_all() -> None:
    def largest_share(skew: float) -> float:
        return float(plan([40] * 10, clients=10, label_skew=skew).shares_KC.max(axis=1).mean())

    assert largest_share(0.05) > 0.4
    assert largest_share(1000.0) < 0.2
    assert largest_share(0.05) > largest_share(1.0) > largest_share(1000.0)


def test_draws_have_the_moments_of_a_dirichlet_distribution() -> None:
    """Mean α_c / α and variance m (1 − m) / (α + 1), of 20,000 draws."""
    concentration_C = np.array([0.2, 0.5, 1.3])
    uniform_KC = np.random.default_rng(0).uniform(size=(20_000, 3))
    drawn_KC = dirichlet(concentration_C, uniform_KC)
    mean_C = concentration_C / 2.0
    np.testing.assert_allclose(drawn_KC.mean(axis=0), mean_C, atol=0.01)
    np.testing.assert_allclose(drawn_KC.var(axis=0), mean_C * (1 - mean_C) / 3.0, atol=0.005)


def test_images_are_dealt_in_turn_by_shares_and_then_from_what_is_left() -> None:
    """Client 0 wants class 0 alone, of which there are two images; client 1 wants class 1."""
    labels_N = np.array([0, 0, 1, 1, 1, 1])
    client_N = split_by_shares(labels_N, np.array([[1.0, 0.0], [0.0, 1.0]]), seed=3)
    assert client_N[:2].tolist() == [0, 0]
    assert sorted(client_N[2:].tolist()) == [0, 1, 1, 1]


def test_a_client_sees_each_of_its_images_once_in_a_pass() -> None:
    one = plan([20, 20, 24], label_skew=0.3)
    seen: dict[int, list[int]] = {client: [] for client in range(4)}
    for step in range(2 * 16):  # two passes of four steps for each client, two steps a turn
        images = one.samples(step, 0, 4).images_B
        client = step // 2 % 4
        assert set(one.client_N[images]) == {client}
        seen[client] += images.tolist()
    for client, images in seen.items():
        assert len(images) == 32
        own = sorted(np.flatnonzero(one.client_N == client).tolist())
        assert sorted(images[:16]) == own
        assert sorted(images[16:]) == own
        assert images[:16] != images[16:]


def test_a_part_of_a_step_is_the_same_as_that_part_of_the_whole() -> None:
    one = plan([20, 20, 24], label_skew=1.0)
    whole = one.samples(13, 0, 4).images_B.tolist()
    assert one.samples(13, 0, 2).images_B.tolist() + one.samples(13, 2, 2).images_B.tolist() == whole


def test_clients_depend_on_the_seed_and_on_nothing_else() -> None:
    drawn = [plan([20, 20, 24], label_skew=0.5).client_N.tolist() for _ in range(2)]
    assert drawn[0] == drawn[1]
    # The skew is the only difference: the same chance deals the images.
    assert drawn[0] != plan([20, 20, 24], label_skew=5.0).client_N.tolist()


def test_validation_images_have_a_clients_shares() -> None:
    images = index([10, 20, 30])
    chosen = with_shares(images, np.array([0.5, 0.5, 0.0]), most=100)
    assert np.bincount(chosen.labels_N, minlength=3).tolist() == [10, 10, 0]  # class 0 has no more
    few = with_shares(images, np.array([0.0, 0.25, 0.75]), most=8)
    assert few.names_N.tolist() == [b"15", b"25", *(b"%d" % (30 + (2 * k + 1) * 30 // 12) for k in range(6))]
    assert len(with_shares(images, np.array([0.4, 0.3, 0.3]), most=1)) == 1


@pytest.mark.parametrize(
    ("counts", "federated", "sentence"),
    [
        (
            [8, 8],
            {"clients": 5},
            "16 training images give each of 5 clients 3, fewer than the global_batch_si",
        ),
        (
            [20, 20],
            {"local_steps": 3},
            r"an epoch has 10 steps, but 4 clients × 3 local_steps = 12 make a rou",
        ),
    ],
)
def test_clients_without_a_batch_and_broken_rounds_are_refused(
    counts: list[int], federated: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        plan(counts, **federated)
