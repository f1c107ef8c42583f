"""results.* and layers.parquet: every run, in its own row, with plain types and nothing that runs."""

import csv
import io
import math
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from reports.collect import collect
from reports.frames import Frames, build_frames
from reports.write.export import COLUMNS, layer_values, results, to_csv, to_parquet
from suite.metrics import METRICS
from tests.helpers.records import expand_runs, write_run, write_waiting

ONE_BATCH = {"global_batch_size": 64, "norm_batch_size": 4}


def frames_below(root: Path) -> Frames:
    return build_frames(collect([root]))


def test_every_run_has_its_own_row(tmp_path: Path) -> None:
    """Also those that are not counted, and whatever order the folders come in."""
    tops = {}
    for number, run in enumerate(expand_runs(batch=ONE_BATCH)):
        if run.seed == 2:
            write_waiting(tmp_path / "runs", run)
            continue
        tops[run.run_id] = 50.0 + number
        folder = write_run(tmp_path / "runs", run, top1_percent=[90.0, 50.0 + number])
    shutil.copytree(folder, tmp_path / "copy")
    frames = build_frames(collect([tmp_path / "runs", tmp_path / "copy"]))
    table = pd.read_parquet(io.BytesIO(to_parquet(results(frames, tmp_path / "out"))))
    assert table.columns.tolist() == COLUMNS
    assert len(table) == 10
    assert int((~table.counted).sum()) == 1
    done = table[table.counted & (table.state == "completed")].set_index("run_id")
    assert done.top1_percent.to_dict() == tops
    assert set(done.best_top1_percent) == {90.0}
    assert table.norm.unique().tolist() == ["BN", "XBN-P2-GN8", "GN8"]
    assert table[table.state == "queued"].top1_percent.isna().all()
    for row in table.itertuples():
        assert row.run_id in str(row.folder) or row.folder == "../copy"
        assert Path(os.path.normpath(tmp_path / "out" / str(row.folder)), "run.json").exists()


def test_columns_hold_every_metric_and_have_plain_types(tmp_path: Path) -> None:
    write_run(tmp_path, expand_runs(batch=ONE_BATCH)[0], rank_s=60.0, lost_steps=3)
    table = results(frames_below(tmp_path), tmp_path)
    for metric in METRICS.values():
        wanted = [f"{metric.name}_common", f"{metric.name}_mean"] if metric.per_layer else [metric.name]
        assert set(wanted) <= set(COLUMNS)
    again = pd.read_parquet(io.BytesIO(to_parquet(table)))
    kinds = {name: again[name].dtype.kind for name in COLUMNS}
    assert {kinds[name] for name in ("seed", "world_size", "lost_steps", "epochs")} == {"i"}
    assert {kinds[name] for name in ("top1_percent", "esm_sigma_common", "queue_wait_s")} == {"f"}
    assert kinds["counted"] == "b"
    assert again.lost_steps[0] == 3
    assert again.device[0] == "NVIDIA H200"


def test_the_csv_says_the_same_as_the_parquet_file(sweep: Path) -> None:
    table = results(frames_below(sweep), sweep)
    again = pd.read_csv(io.BytesIO(to_csv(table)))
    assert again.columns.tolist() == COLUMNS
    assert again.run_id.tolist() == table.run_id.tolist()
    for name in ("top1_percent", "esm_sigma_common", "rank_s"):
        pd.testing.assert_series_equal(again[name], table[name], rtol=1e-9, check_dtype=False)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "safe", "a=b"])
def test_no_text_is_a_formula_of_a_spreadsheet(tmp_path: Path, name: str) -> None:
    (run, *_) = expand_runs(name=name, batch=ONE_BATCH)
    write_run(tmp_path, run, reason=name, top1_percent=[0.0], esm_sigma=[-1.5] * 19)
    table = results(frames_below(tmp_path), tmp_path)
    assert table.reason[0] == name
    (row,) = csv.DictReader(io.StringIO(to_csv(table).decode()))
    expected = name if name in ("safe", "a=b") else f"'{name}"
    assert (row["reason"], row["experiment"]) == (expected, expected)
    assert row["esm_sigma_mean"] == "-1.5"  # a number stays one


def test_nan_and_infinity_are_written(tmp_path: Path) -> None:
    (run, *_) = expand_runs(batch=ONE_BATCH)
    write_run(tmp_path / "runs", run, top1_percent=[math.inf], layers=["a"], esm_sigma=[math.nan])
    made = results(frames_below(tmp_path / "runs"), tmp_path / "out")
    (row,) = csv.DictReader(io.StringIO(to_csv(made).decode()))
    assert (row["top1_percent"], row["esm_sigma_mean"], row["queue_wait_s"]) == ("inf", "", "")
    table = pd.read_parquet(io.BytesIO(to_parquet(made)))
    assert table.top1_percent[0] == math.inf
    assert math.isnan(table.esm_sigma_mean[0])


def test_layers_are_those_of_the_newest_probe_of_counted_runs(tmp_path: Path) -> None:
    bn, xbn, _ = expand_runs(batch=ONE_BATCH, seeds=[0])
    folder = write_run(tmp_path / "a", bn, layers=["stem", "x"], esm_sigma=[1.0, 2.0], esm_mu=[3.0, 4.0])
    write_run(tmp_path / "a", xbn, layers=["x"], esm_sigma=[5.0])
    shutil.copytree(folder, tmp_path / "copy")
    table = layer_values(frames_below(tmp_path))
    assert table.columns.tolist() == ["run_id", "metric", "layer", "position", "value"]
    sigma = table[table.metric == "esm_sigma"]
    found = {(r.run_id, r.layer, r.position): r.value for r in sigma.itertuples()}
    assert found == {(bn.run_id, "stem", 0): 1.0, (bn.run_id, "x", 1): 2.0, (xbn.run_id, "x", 1): 5.0}
    assert len(sigma) == 3


def test_there_may_be_no_layer_at_all(tmp_path: Path) -> None:
    write_waiting(tmp_path / "runs", expand_runs(batch=ONE_BATCH)[0])
    frames = frames_below(tmp_path / "runs")
    assert pd.read_parquet(io.BytesIO(to_parquet(layer_values(frames)))).empty
    assert len(pd.read_parquet(io.BytesIO(to_parquet(results(frames, tmp_path))))) == 1
