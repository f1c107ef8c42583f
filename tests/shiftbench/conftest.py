"""Trainers of others are imported by the tests that need them: it takes long, and changes the environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """Restore the environment."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Restore the environment: with Lightning's, no fork server would serve the tests that follow."""
    with unchanged_environment():
        yield
