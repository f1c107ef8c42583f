"""The arithmetic of the benchmark of `tune`."""

import os
import subprocess

import psutil
import pytest

import benchmarks.tune as bench
from benchmarks.pairing import summarize
from benchmarks.tune import TuneBench


def test_overhead_and_memory_by_hand() -> None:
    memory = [(5, 900.0), (40, 910.0), (60, 920.0), (100, 930.0)]
    result = TuneBench(10, summarize([66.0, 64.0, 65.0], [60.0, 60.0, 60.0]), 100, 20.0, memory)
    assert result.overhead_s == pytest.approx(0.5)  # 5 s over 10 trials
    assert result.trial_s == pytest.approx(12.0)  # two at a time
    assert [result.memory_mib(share) for share in (0.1, 0.5, 1.0)] == [910.0, 920.0, 930.0]


def test_a_family_is_a_process_and_its_descendants() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        family = [process.pid for process in bench._family(os.getpid())]
        assert {os.getpid(), child.pid} <= set(family)
        assert os.getppid() not in family
        child.kill()
    assert 1.0 < bench._resident_mib(psutil.Process()) < 10_000
    assert bench._family(child.pid) == []
