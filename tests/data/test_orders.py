"""The next epoch's order is computed meanwhile, and is what it would be otherwise."""

import threading
from pathlib import Path

import numpy as np
import pytest

from suite.data import orders
from suite.data.index import Int64s
from suite.data.orders import EpochOrders
from tests.helpers.ranks import in_processes


class Counted:
    """Orders of three images by epoch, with the thread that computed each."""

    def __init__(self) -> None:
        self.threads: list[tuple[int, str]] = []

    def __call__(self, epoch: int) -> Int64s:
        self.threads.append((epoch, threading.current_thread().name))
        return np.random.default_rng(epoch).permutation(3)


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "WORTH_A_THREAD", 3)


def test_a_thread_computes_the_next_epoch(worth_it: None) -> None:
    order = Counted()
    found = EpochOrders(order, 3)
    for epoch in (4, 4, 5, 6):
        assert np.array_equal(found.of(epoch), np.random.default_rng(epoch).permutation(3))
    found._next[1].join()
    main = threading.current_thread().name
    assert order.threads == [(4, main), (5, "next-order"), (6, "next-order"), (7, "next-order")]


def test_epochs_in_any_order(worth_it: None) -> None:
    found = EpochOrders(Counted(), 3)
    for epoch in (4, 2, 3, 9, 3, 4):
        assert np.array_equal(found.of(epoch), np.random.default_rng(epoch).permutation(3))


def test_few_images_are_not_worth_a_thread() -> None:
    order = Counted()
    EpochOrders(order, 3).of(0)
    assert order.threads == [(0, threading.current_thread().name)]


def test_a_forked_process_computes_what_its_parents_thread_had_begun(tmp_path: Path) -> None:
    """As the workers of the torchvision loader do."""
    assert in_processes(_fork_while_a_thread_computes, [(tmp_path / "found.npy",)]) == [0]
    assert np.load(tmp_path / "found.npy").tolist() == [1, 1, 1]


def _fork_while_a_thread_computes(out: Path) -> None:
    import os

    orders.WORTH_A_THREAD = 3
    is_forked = threading.Event()

    def order(epoch: int) -> Int64s:
        if threading.current_thread().name == "next-order":
            is_forked.wait(30)
        return np.full(3, epoch)

    found = EpochOrders(order, 3)
    found.of(0)
    if (child := os.fork()) == 0:
        np.save(out, found.of(1))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    is_forked.set()
    assert os.waitstatus_to_exitcode(status) == 0
