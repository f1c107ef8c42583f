"""Records to frames: which layers are compared, and what counts as a seed of the same thing."""

import math
import shutil
from pathlib import Path

import pytest

from reports.collect import collect
from reports.frames import Frames, build_frames, merge_orders
from suite.record import RecordWriter
from tests.helpers.records import expand_runs, write_run

ONE_BATCH = {"global_batch_size": 64, "norm_batch_size": 4}
BN = {"arch": "small_resnet20", "norm": {"kind": "bn"}}
BN_AND_XBN = {"arch": "small_resnet20", "norm": [{"kind": "bn"}, {"kind": "xbn"}]}


def frames_of(*folders: Path) -> Frames:
    return build_frames(collect(folders))


def test_common_layers_are_those_of_every_variant_with_bn(tmp_path: Path) -> None:
    bn, xbn, gn = expand_runs(batch=ONE_BATCH, seeds=[0])
    frames = frames_of(
        write_run(tmp_path, bn, layers=["stem", "a", "b"], esm_sigma=[1, 2, 3], esm_mu=[4, 5, 6]),
        write_run(tmp_path, xbn, layers=["a", "b"], esm_sigma=[1, 2], esm_mu=[1, 1]),
        write_run(tmp_path, gn, layers=[]),
    )
    assert frames.common_layers == {"small_resnet20": ["a", "b"]}
    runs = frames.runs.set_index("norm")
    assert runs.esm_sigma_mean["BN"] == 2.0
    assert runs.esm_sigma_common["BN"] == 2.5
    assert runs.esm_mu_common["BN"] == 5.5
    assert runs.esm_sigma_common["XBN-P2-GN8"] == 1.5
    assert math.isnan(runs.esm_sigma_common["GN8"])
    assert runs.num_bn_layers.to_dict() == {"BN": 3, "XBN-P2-GN8": 2, "GN8": 0}


def test_a_layer_has_one_place_in_all_variants(tmp_path: Path) -> None:
    bn, xbn = expand_runs(model=BN_AND_XBN, batch=ONE_BATCH, seeds=[0])
    frames = frames_of(
        write_run(tmp_path, bn, layers=["stem", "a", "b"]), write_run(tmp_path, xbn, layers=["a", "b"])
    )
    places = frames.layers.drop_duplicates(["run", "layer"]).groupby("layer").position.unique()
    assert {name: list(p) for name, p in places.items()} == {"stem": [0], "a": [1], "b": [2]}


def test_orders_merge_without_breaking_either() -> None:
    assert merge_orders([["a", "c", "d"], ["b", "c", "e"]]) == ["b", "a", "c", "e", "d"]
    assert merge_orders([[], ["x"]]) == ["x"]


def test_a_nan_layer_is_not_averaged_away(tmp_path: Path) -> None:
    (bn,) = expand_runs(model=BN, batch=ONE_BATCH, seeds=[0])
    frames = frames_of(write_run(tmp_path, bn, layers=["a", "b"], esm_sigma=[1, math.nan]))
    assert math.isnan(frames.runs.esm_sigma_mean[0])


def test_best_epoch_and_final_epoch_differ(tmp_path: Path) -> None:
    (bn,) = expand_runs(model=BN, batch=ONE_BATCH, seeds=[0])
    row = frames_of(write_run(tmp_path, bn, top1_percent=[50, 70, math.nan, 65])).runs.iloc[0]
    assert (row.top1_percent, row.best_top1_percent, row.epoch) == (65, 70, 4)


def test_two_recipes_do_not_pass_for_two_seeds(tmp_path: Path) -> None:
    runs = expand_runs(model=BN, batch=ONE_BATCH, recipe={"epochs": 2, "lr": [0.1, 0.2]}, seeds=[0])
    frames = frames_of(*(write_run(tmp_path, run) for run in runs))
    assert sorted(frames.runs.settings) == ["lr=0.1", "lr=0.2"]


def test_parts_that_some_runs_lack_keep_their_settings_apart(tmp_path: Path) -> None:
    """A run without SWA, and runs with two kinds of it: three settings, with the fields that differ."""
    recipes = [{"epochs": 6, "swa": swa} for swa in (None, {"start": 0.5}, {"start": 0.75})]
    for order in (recipes, recipes[::-1]):
        runs = [
            run
            for recipe in order
            for run in expand_runs(model=BN, batch=ONE_BATCH, recipe=recipe, seeds=[0])
        ]
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        frames = frames_of(*(write_run(folder, run) for run in runs))
        assert sorted(frames.runs.settings) == ["swa.start=0.5", "swa.start=0.75", "swa=null"]


def test_settings_name_only_what_differs_between_runs_alike_otherwise(tmp_path: Path) -> None:
    fashion, other = expand_runs(
        model=BN,
        batch=ONE_BATCH,
        seeds=[0],
        data=[{"name": "fashion-mnist-7k", "image_size": 28}, {"name": "synthetic", "image_size": 64}],
    )
    frames = frames_of(write_run(tmp_path, fashion), write_run(tmp_path, other))
    assert set(frames.runs.settings) == {""}


def test_a_copied_folder_counts_once(tmp_path: Path) -> None:
    (bn,) = expand_runs(model=BN, batch=ONE_BATCH, seeds=[0])
    folder = write_run(tmp_path / "a", bn, state="failed", top1_percent=[10])
    shutil.copytree(folder, tmp_path / "b")
    with RecordWriter(bn, tmp_path / "b") as writer:
        writer.status("completed")
    frames = frames_of(folder, tmp_path / "b")
    assert len(frames.runs) == 2
    assert frames.completed.folder.tolist() == [str(tmp_path / "b")]


@pytest.mark.parametrize("labels", [["GN8", "XBN-P2-GN8", "BN"]])
def test_bn_comes_first_whatever_the_order_of_folders(tmp_path: Path, labels: list[str]) -> None:
    by_label = {run.model.norm.label: run for run in expand_runs(batch=ONE_BATCH, seeds=[0])}
    frames = frames_of(*(write_run(tmp_path, by_label[label]) for label in labels))
    assert frames.runs.norm.tolist() == ["BN", "XBN-P2-GN8", "GN8"]


def test_a_norm_without_layers_shares_none_and_takes_none_away(tmp_path: Path) -> None:
    bn, _, gn = expand_runs(batch=ONE_BATCH, seeds=[0])
    with_empty = write_run(tmp_path, gn, layers=[])
    with RecordWriter(gn, with_empty) as writer:
        writer.measure("esm_sigma", [], epoch=2, step=200, split="val")
        writer.status("completed")
    frames = frames_of(write_run(tmp_path, bn, layers=["a", "b"]), with_empty)
    assert frames.common_layers == {"small_resnet20": ["a", "b"]}
    assert frames.runs.num_bn_layers.tolist() == [2, 0]
