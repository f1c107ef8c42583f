"""What a run has measured so far, as a scheduler reads it."""

import json
import math
from pathlib import Path

import pytest

from jobs.tune.epoch_results import complete_epochs, read_results
from suite.record import Layer, RecordWriter
from suite.studies.spec import is_due
from tests.helpers.runs import make_run


@pytest.mark.parametrize(
    ("metric", "epochs"),
    [
        ("top1_percent", {2, 4, 6}),
        ("esm_sigma", {3, 6}),
        ("top1_precise_percent", {6}),
        ("matmul_peak_share", {6}),
        ("images_per_s", {1, 2, 3, 4, 5, 6}),
        ("tid_mu", {1, 2, 3, 4, 5, 6}),
    ],
)
def test_what_is_measured_when(metric: str, epochs: set[int]) -> None:
    run = make_run(measure={"eval_every_epochs": 2, "probe_every_epochs": 3})
    assert {epoch for epoch in range(1, 7) if is_due(run, metric, epoch)} == epochs


def test_what_no_run_without_bn_or_without_images_measures() -> None:
    assert not is_due(make_run(model={"arch": "small_resnet11", "norm": {"kind": "gn"}}), "esm_sigma", 6)
    assert not is_due(make_run(measure={"precise_bn_images": 0}), "top1_precise_percent", 6)
    assert not is_due(make_run(model={"arch": "small_resnet11", "norm": {"kind": "gn"}}), "tid_mu", 1)
    assert not is_due(make_run(measure={"tid": False}), "tid_mu", 1)


def test_values_are_validations_and_means_over_layers(tmp_path: Path) -> None:
    run = make_run()
    with RecordWriter(run, tmp_path) as record:
        record.layers([Layer("a", 2), Layer("b", 4)])
        record.measure("top1_percent", 99.0, epoch=1, step=4, split="train")
        record.measure("top1_percent", 25.0, epoch=1, step=4, split="val")
        record.measure("esm_sigma", [1.0, 3.0], epoch=1, step=4, split="val")
        record.measure("tid_mu", [0.5, 1.5], epoch=1, step=4, split="train")
        record.measure("top1_percent", math.nan, epoch=2, step=8, split="val")
    (tmp_path / "measurements.jsonl").open("a").write('{"metric": "top1_percent", "value": 7')  # cut short
    results = read_results(tmp_path, ["top1_percent", "esm_sigma", "tid_mu"])
    assert list(results) == [1, 2]
    assert results[1] == {"top1_percent": 25.0, "esm_sigma": 2.0, "tid_mu": 1.0}
    assert math.isnan(results[2]["top1_percent"])


def test_an_epoch_is_reported_once_all_that_is_due_is_measured() -> None:
    run = make_run(measure={"probe_every_epochs": 1})
    metrics = ["top1_percent", "esm_sigma"]
    half = {1: {"top1_percent": 20.0}}
    whole = {1: {"top1_percent": 20.0, "esm_sigma": 2.0}}
    assert complete_epochs(run, half, metrics) == {}
    assert complete_epochs(run, whole, metrics) == whole
    # The next epoch has begun to be measured: nothing more comes of the first one.
    later = {2: {"top1_percent": 30.0}}
    assert complete_epochs(run, half | later, metrics) == half
    # The last epoch is reported with the end of the run.
    last = {6: {"top1_percent": 60.0, "esm_sigma": 1.0}}
    assert complete_epochs(run, whole | last, metrics) == whole


def test_lines_of_other_metrics_do_not_count(tmp_path: Path) -> None:
    with RecordWriter(make_run(), tmp_path) as record:
        record.measure("loss", 2.0, epoch=1, step=4, split="val")
    assert read_results(tmp_path, ["top1_percent"]) == {}
    assert json.loads((tmp_path / "measurements.jsonl").read_text())["metric"] == "loss"
