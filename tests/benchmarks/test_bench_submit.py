"""The parts of the benchmark of `submit` that need no Slurm: the shims' log and its arithmetic."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.processes import Call, Spread, Timed, parse_calls, time_files, write_shims
from benchmarks.submit import SubmitBench, bench_submit, expect, experiment_of
from suite.config import expand
from suite.errors import UserError


def test_what_the_shims_note_is_read_in_every_language() -> None:
    text = "squeue 1790000000.250000 1790000000.750000\nsbatch 1790000001,000000 1790000001,125000\n"
    assert parse_calls(text) == [Call("squeue", 0.5), Call("sbatch", 0.125)]
    assert parse_calls("") == []


def test_own_time_is_what_slurm_did_not_take() -> None:
    timed = Timed(3.0, 1.5, (Call("squeue", 0.25), Call("sbatch", 0.5), Call("sbatch", 0.25)))
    assert (timed.slurm_s, timed.own_s, timed.count("sbatch"), timed.count("sacct")) == (1.0, 2.0, 2, 0)


def test_the_median_has_its_range() -> None:
    assert Spread.of([3.0, 1.0, 10.0, 2.0]) == Spread(2.5, 1.0, 10.0)
    assert Spread.of([4]) == Spread(4, 4, 4)


@pytest.mark.parametrize(("cells", "calls"), [(1, 1), (1000, 1), (1001, 1), (1002, 2), (10_000, 10)])
def test_sbatch_calls_that_arrays_of_this_size_need(cells: int, calls: int) -> None:
    assert SubmitBench(cells, max_array_size=1001, slurm_version="").needed_sbatch_calls == calls


def test_a_shim_hands_on_everything_and_notes_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real one"
    real.mkdir()
    sbatch = real / "sbatch"
    sbatch.write_text('#!/bin/sh\nprintf "%s|" "$@"\ncat\nexit 3\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{real}:/usr/bin:/bin")
    log = tmp_path / "the log"
    write_shims(tmp_path / "shims", log)
    done = subprocess.run(
        [tmp_path / "shims" / "sbatch", "a b", "--c=*"], input="said", capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "a b|--c=*|said", "")
    (call,) = parse_calls(log.read_text())
    assert call.command == "sbatch"
    assert 0 < call.duration_s < 60


@pytest.mark.parametrize("cells", [6, 1500])
def test_the_experiment_has_so_many_cells(cells: int) -> None:
    assert len(expand(experiment_of(cells), "bench").runs) == cells


def test_cells_that_make_no_full_product_are_refused() -> None:
    with pytest.raises(UserError, match="above 1000 a multiple of 2 is expected"):
        experiment_of(1001)


def test_a_local_cluster_is_refused() -> None:
    with pytest.raises(UserError, match="this cluster is local"):
        bench_submit("local", 2, 1)


def test_a_status_of_something_else_is_no_measurement() -> None:
    seen = Timed(1.0, 1.0, (), "2 runs: 1 queued, 1 failed\n")
    expect(seen, "2 runs: 1 queued, 1 failed")
    with pytest.raises(UserError, match="nothing was measured"):
        expect(seen, "2 runs: 2 queued")


def test_bare_files_are_like_those_that_were_made(tmp_path: Path) -> None:
    like = tmp_path / "like"
    (like / "run" / "empty").mkdir(parents=True)
    (like / "run" / "status.json").write_text("{}\n")
    assert time_files(like, tmp_path / "copy") > 0
    made = {p.relative_to(tmp_path / "copy"): p.stat() for p in (tmp_path / "copy").rglob("*")}
    assert sorted(map(str, made)) == ["run", "run/empty", "run/status.json"]
    assert made[Path("run/status.json")].st_size == 3
