"""What the bench of `tune` counts."""

import os
from pathlib import Path

import pytest

import benchmarks.tune as bench
from benchmarks.pairing import summarize
from benchmarks.tune import TuneBench, bench_tune


def test_overhead_and_memory_by_hand() -> None:
    memory = [(5, 900.0), (40, 910.0), (60, 920.0), (100, 930.0)]
    result = TuneBench(10, summarize([66.0, 64.0, 65.0], [60.0, 60.0, 60.0]), 100, 20.0, memory)
    assert result.overhead_s == pytest.approx(0.5)  # 5 s over 10 trials
    assert result.trial_s == pytest.approx(12.0)  # two at a time
    assert [result.memory_mib(share) for share in (0.1, 0.5, 1.0)] == [910.0, 920.0, 930.0]


def test_a_family_is_a_process_and_its_descendants() -> None:
    assert os.getpid() in list(bench._family(os.getppid()))
    assert os.getppid() not in list(bench._family(os.getpid()))
    assert 1.0 < bench._resident_mib(os.getpid()) < 10_000


@pytest.mark.timeout(300)
def test_both_ways_are_called_and_complete_trials_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, bool]] = []

    def call(arguments: list[str], folder: Path) -> None:
        called.append((arguments[0], Path(arguments[1]).is_file()))

    monkeypatch.setattr(bench, "_call", call)
    monkeypatch.setattr(bench, "SAMPLE_EVERY_S", 0.02)
    result = bench_tune(trials=3, rounds=2, read_trials=12)
    assert sorted(called) == [("run", True)] * 2 + [("tune", True)] * 2
    # The driver itself is there, and Ray beside it.
    assert result.memory_mib(0.1) > 100
    assert max(trials for trials, _ in result.memory) <= 12
