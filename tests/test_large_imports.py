"""Importing large packages: the garbage collector meanwhile, and afterwards."""

import gc

import pytest

from suite.large_imports import importing_large_packages


@pytest.mark.parametrize("is_enabled", [True, False])
def test_nothing_is_collected_meanwhile_and_what_exists_then_is_left_out(is_enabled: bool) -> None:
    was_enabled = gc.isenabled()
    try:
        (gc.enable if is_enabled else gc.disable)()
        before = gc.get_freeze_count()
        with importing_large_packages():
            assert not gc.isenabled()
            kept: list[list[int]] = [[] for _ in range(10_000)]
        assert gc.isenabled() is is_enabled
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        (gc.enable if was_enabled else gc.disable)()
