"""One round of one benchmark, from the command line to its table, and one refusal."""

import os
import subprocess
import sys

from tests.helpers.small_experiment import ROOT


def bench(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)


def test_one_round_prints_the_ratio_and_where_it_was_measured() -> None:
    size = ["--image-size", "32", "--images-per-batch", "2", "--batches-per-round", "1", "--rounds", "1"]
    done = bench("probe", *size, COLUMNS="120")
    assert done.returncode == 0, done.stderr
    header, ratio, origin = done.stdout.splitlines()[0], done.stdout.splitlines()[1], done.stdout
    assert header.split()[:4] == ["a", "/", "b", "median"]
    assert ratio.strip().startswith("probe / inference pass (time)")
    assert "torch " in origin


def test_a_network_that_is_unknown_is_refused_by_the_model() -> None:
    done = bench("model", "--arch", "resnet51")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --arch: resnet51 is not one of resnet18, ")


def test_bad_input_is_one_line_and_exit_code_2() -> None:
    done = bench("submit", "--cluster", "local", "--cells", "2")
    assert done.returncode == 2
    assert done.stderr == "error: local: this benchmark submits to Slurm, and this cluster is local\n"
