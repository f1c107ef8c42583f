"""A thousand variants: every table is short, says what it leaves out, and counts what is not in it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reports.aggregate import UNFINISHED, estimate_of, summarise
from reports.collect import Skipped, collect
from reports.frames import GROUP, Frames, build_frames
from reports.stats import mean_interval
from reports.tables.cell_tables import shift_display, summary_display
from reports.tables.cost_tables import cost_display, throughput_display
from reports.tables.run_list import run_list
from reports.tables.table import MAX_ROWS
from reports.write.export import layer_values, results, to_csv, to_parquet
from reports.write.latex import to_latex
from reports.write.markdown import markdown_table
from tests.helpers.records import expand_runs, write_run

VARIANTS, SEEDS = 1000, 3
METRICS = ["top1_percent", "esm_sigma_common", "images_per_s"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """One run, tabulated, and repeated under other names: 1000 variants of three seeds each."""
    root = tmp_path_factory.mktemp("many")
    for run in expand_runs(
        model={"arch": "small_resnet20", "norm": {"kind": "bn"}}, seeds=[0], batch={"global_batch_size": 4}
    ):
        write_run(root, run)
    one = build_frames(collect([root]))
    count = VARIANTS * SEEDS
    runs = one.runs.loc[[0] * count].reset_index(drop=True)
    number = np.arange(count)
    noise = np.random.default_rng(0).normal(size=(count, len(METRICS)))
    runs = runs.assign(
        run=number,
        run_id=[f"{n:012x}" for n in number],
        norm=[f"X{n // SEEDS:05d}" for n in number],
        seed=number % SEEDS,
        state=np.where(number % 7 == 0, "failed", np.where(number % 11 == 0, "diverged", "completed")),
        counted=number % 13 != 0,
        **{metric: noise[:, i] for i, metric in enumerate(METRICS)},
    )
    runs.loc[number % 17 == 0, METRICS[0]] = np.inf
    runs.loc[number % 19 == 0, METRICS[1]] = np.nan
    layers = one.layers.assign(run=0)
    return replace(one, runs=runs, layers=layers)


def test_every_cell_is_summarised_as_one_alone_would_be(many: Frames) -> None:
    table = summarise(many, METRICS)
    counted = many.runs[many.runs.counted]
    cells = counted.groupby(GROUP, sort=False)
    assert len(table) == cells.ngroups
    assert table.norm.tolist() == counted.norm.drop_duplicates().tolist()
    for i in (0, 1, 2, 3, 432, 998, 999):
        row = table.iloc[i]
        runs = counted[counted.norm == row.norm]
        done = runs[runs.state == "completed"]
        for metric in METRICS:
            expected, found = mean_interval(done[metric]), estimate_of(row, metric)
            assert (expected is None) == (found is None)
            if expected is None or found is None:
                continue
            assert found.n == expected.n
            for part in ("mean", "low", "high"):
                assert getattr(found, part) == pytest.approx(getattr(expected, part), rel=1e-9)
        assert row.planned == SEEDS
        assert row.completed == len(done)
        assert row.not_started == SEEDS - len(runs)
        assert row.failed == (runs.state == "failed").sum()
    assert int(table[["completed", *UNFINISHED]].to_numpy().sum()) == len(table) * SEEDS


def test_tables_are_short_and_say_so(many: Frames) -> None:
    measured = many.completed.norm.nunique()
    made = [
        (summary_display(many), VARIANTS),
        (shift_display(many), VARIANTS),
        (cost_display(many), VARIANTS),
    ]
    for table, rows in [*made, (throughput_display(many), measured)]:
        assert table is not None
        assert len(table.texts) == MAX_ROWS
        said = f"The first 200 of {rows:,} rows; results.csv and results.parquet have every run."
        assert said in table.caption
        for text in (markdown_table(table), to_latex(table, "tab:x")):
            assert len(text) < 100_000
            assert "X00150" in text
            assert "X00250" not in text


def test_the_run_list_has_what_went_wrong_first(many: Frames, tmp_path: Path) -> None:
    table = run_list(many, [Skipped(tmp_path / f"x{i}", "why") for i in range(50)], tmp_path)
    assert len(table.texts) == MAX_ROWS
    assert [row[2] for row in table.texts] == ["unreadable"] * 50 + ["failed"] * 150
    assert "The first 200 of 3,050 rows, what went wrong first;" in table.caption
    assert len(run_list(many, [Skipped(tmp_path / f"x{i}", "why") for i in range(999)]).texts) == MAX_ROWS


def test_the_data_has_them_all(many: Frames, tmp_path: Path) -> None:
    table = results(many, tmp_path)
    assert len(table) == VARIANTS * SEEDS
    assert to_csv(table).count(b"\n") == VARIANTS * SEEDS + 1
    assert to_parquet(table)[:4] == b"PAR1"
    assert layer_values(many).empty  # of a copy


def test_notes_do_not_name_every_variant(many: Frames) -> None:
    layers = [note for note in summary_display(many).notes if "common layers" in note]
    assert layers
    assert all(len(note) < 300 and "and 992 more" in note for note in layers)
