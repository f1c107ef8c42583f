"""An interrupted run ends bit-equal to an uninterrupted one, wherever and however it was stopped."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Record, StopRequest, clear_stop_request, request_stop
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.runs import tiny_run
from tests.helpers.training_processes import (
    train,
    train_killed_at_the_probe,
    train_killed_while_it_writes,
    train_stopped_in,
)

# 96 images in steps of 16: 6 steps an epoch, 12 in all; a checkpoint every 4 steps and at each epoch's end.
STEPS = (2, 6, 9)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(tiny_run(), folder) == [0]
    record = Record.read(folder)
    assert record.state == "completed"
    names = ("fp32_convolutions", "fp32_products", "cudnn_benchmark")
    assert [record.provenance[0][name] for name in names] == ["ieee", "ieee", True]
    return folder


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("stop_by", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_ends_bit_equal(
    undisturbed: Path, tmp_path: Path, stop_by: signal.Signals, step: int
) -> None:
    run = tiny_run()
    code = {signal.SIGTERM: 75, signal.SIGKILL: -9}[stop_by]
    assert train(run, tmp_path, stop_by=stop_by, stop_at=step) == [code]
    stopped = Record.read(tmp_path)
    # By SIGTERM a checkpoint is written at that very step; after kill -9 the last one counts.
    newest = RunPaths(tmp_path).checkpoint_steps()[-1:]
    assert newest == ([step] if stop_by is signal.SIGTERM else {2: [], 6: [4], 9: [8]}[step])
    assert stopped.state == ("preempted" if stop_by is signal.SIGTERM else "failed")
    assert train(run, tmp_path) == [0]
    assert Record.read(tmp_path).status["attempts"] == 2
    assert_bit_equal(final_state(tmp_path), final_state(undisturbed))
    assert measured(tmp_path) == measured(undisturbed)
    assert tid_of_steps(tmp_path) == tid_of_steps(undisturbed)


def test_a_run_killed_while_a_checkpoint_is_written_takes_the_one_before(
    undisturbed: Path, tmp_path: Path
) -> None:
    run = tiny_run()
    assert train_killed_while_it_writes(run, tmp_path, step=8) == [-9]
    assert RunPaths(tmp_path).checkpoint_steps() == [4, 6]
    assert train(run, tmp_path) == [0]
    assert Record.read(tmp_path).status["resumed_from_step"] == 6
    assert_bit_equal(final_state(tmp_path), final_state(undisturbed))
    assert measured(tmp_path) == measured(undisturbed)
    assert not list(RunPaths(tmp_path).checkpoints.glob(".*"))


def test_tid_is_recorded_by_epochs_and_by_steps_for_the_layers_that_are_probed(undisturbed: Path) -> None:
    """Of six steps an epoch the first five, and the one that is left."""
    record = Record.read(undisturbed)
    by_steps = tid_of_steps(undisturbed)
    assert [(line["epoch"], line["step"]) for line in by_steps] == [(1, 5), (1, 6), (2, 11), (2, 12)]
    for metric in ("tid_mu", "tid_sigma"):
        newest = record.last_per_layer(metric, "train")
        assert list(newest) == list(record.last_per_layer("esm_mu", "val"))
        assert all(0 < value < 10 for value in newest.values())
        lines = [line for line in measured(undisturbed) if line["metric"] == metric]
        assert [line["epoch"] for line in lines] == [1, 2]
        for epoch, line in enumerate(lines):
            five, one = (steps[metric] for steps in by_steps[2 * epoch : 2 * epoch + 2])
            weighted = [(5 * a + b) / 6 for a, b in zip(five, one, strict=True)]
            assert weighted == pytest.approx(line["value"], rel=1e-4)


def tid_of_steps(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RunPaths(folder).tid.read_text().splitlines()]


def test_a_run_that_is_asked_to_stop_records_who_asked_and_can_resume(
    undisturbed: Path, tmp_path: Path
) -> None:
    paths = RunPaths(tmp_path)
    request_stop(paths, StopRequest("stopped", "asha after epoch 1 of 3: top1_percent 12", "asha", 1))
    assert train(tiny_run(), tmp_path) == [75]
    record = Record.read(tmp_path)
    assert (record.state, record.status["stopped_by"]) == ("stopped", "asha")
    assert record.status["stopped_after_epoch"] == 1
    assert record.reason == "stopped after step 1 of 12, by asha after epoch 1 of 3: top1_percent 12"
    assert paths.checkpoint_steps() == [1]
    clear_stop_request(paths)
    assert train(tiny_run(), tmp_path) == [0]
    record = Record.read(tmp_path)
    assert record.state == "completed"
    assert "stopped_by" not in record.status
    assert_bit_equal(final_state(tmp_path), final_state(undisturbed))
    assert measured(tmp_path) == measured(undisturbed)


def test_a_run_killed_in_an_evaluation_repeats_it_without_doubles(undisturbed: Path, tmp_path: Path) -> None:
    run = tiny_run()
    assert train_killed_at_the_probe(run, tmp_path) == [-9]
    half_done = [line["metric"] for line in measured(tmp_path) if line["split"] == "val"]
    assert "top1_percent" in half_done
    assert "esm_sigma" not in half_done
    assert train(run, tmp_path) == [0]
    assert Record.read(tmp_path).status["resumed_from_step"] == 6
    assert_bit_equal(final_state(tmp_path), final_state(undisturbed))
    assert measured(tmp_path) == measured(undisturbed)


@pytest.mark.parametrize(("phase", "epoch"), [("evaluate_and_probe", 1), ("accuracy_with_precise_bn", 2)])
def test_a_stop_in_an_evaluation_does_not_wait_for_its_end(
    undisturbed: Path, tmp_path: Path, phase: str, epoch: int
) -> None:
    """PreciseBN is of the last epoch alone, the second."""
    run = tiny_run()
    assert train_stopped_in(phase, run, tmp_path) == [75]
    assert Record.read(tmp_path).state == "preempted"
    assert RunPaths(tmp_path).checkpoint_steps()[-1] == 6 * epoch  # the epoch's end
    probed = [line["epoch"] for line in measured(tmp_path) if line["metric"] == "esm_sigma"]
    assert probed == [1] * (epoch - 1)
    assert train(run, tmp_path) == [0]
    assert_bit_equal(final_state(tmp_path), final_state(undisturbed))
    assert measured(tmp_path) == measured(undisturbed)


def test_two_ranks_stop_together_in_an_evaluation_where_no_checkpoint_was_due(tmp_path: Path) -> None:
    run = tiny_run(
        batch={"global_batch_size": 16, "batch_size_per_gpu": 4, "norm_batch_size": 8},
        system={"checkpoint_every_steps": None, "checkpoint_every_epochs": 5},
    )
    assert train(run, tmp_path / "undisturbed", world_size=2) == [0, 0]
    assert train_stopped_in("evaluate_and_probe", run, tmp_path / "stopped", world_size=2) == [75, 75]
    assert RunPaths(tmp_path / "stopped").checkpoint_steps() == [6]
    assert train(run, tmp_path / "stopped", world_size=2) == [0, 0]
    assert_bit_equal(final_state(tmp_path / "stopped"), final_state(tmp_path / "undisturbed"))
    assert measured(tmp_path / "stopped") == measured(tmp_path / "undisturbed")


def test_two_gloo_ranks_stop_together_and_end_bit_equal(tmp_path: Path) -> None:
    run = tiny_run(batch={"global_batch_size": 16, "batch_size_per_gpu": 4, "norm_batch_size": 8})
    assert train(run, tmp_path / "undisturbed", world_size=2) == [0, 0]
    # The signal reaches the second rank alone: both stop at the same step, the one after.
    assert train(run, tmp_path / "term", world_size=2, stop_by=signal.SIGTERM, stop_at=9) == [75, 75]
    assert RunPaths(tmp_path / "term").checkpoint_steps()[-1] == 10
    assert train(run, tmp_path / "kill", world_size=2, stop_by=signal.SIGKILL, stop_at=9) == [-9, -9]
    assert RunPaths(tmp_path / "kill").checkpoint_steps()[-1] == 8
    for name in ("term", "kill"):
        assert train(run, tmp_path / name, world_size=2) == [0, 0]
        assert_bit_equal(final_state(tmp_path / name), final_state(tmp_path / "undisturbed"))
        assert measured(tmp_path / name) == measured(tmp_path / "undisturbed")


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before(undisturbed: Path, tmp_path: Path) -> None:
    run = tiny_run()
    assert train(run, tmp_path, stop_by=signal.SIGTERM, stop_at=9) == [75]
    newest = RunPaths(tmp_path).checkpoint(9)
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert train(run, tmp_path) == [0]
    status = Record.read(tmp_path).status
    assert status["resumed_from_step"] == 8
    assert "step-00000009.pt: not a readable checkpoint" in status["damaged_checkpoints"][0]
    assert_bit_equal(final_state(tmp_path), final_state(undisturbed))
    assert measured(tmp_path) == measured(undisturbed)


def test_dropout_goes_on_with_the_random_numbers_that_were_next(tmp_path: Path) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    assert train(dropout_run(), undisturbed) == [0]
    assert train(dropout_run(), stopped, stop_by=signal.SIGKILL, stop_at=2) == [-9]
    assert train(dropout_run(), stopped) == [0]
    assert Record.read(stopped).status["resumed_from_step"] == 1
    assert_bit_equal(final_state(stopped), final_state(undisturbed))
    assert measured(stopped) == measured(undisturbed)


def dropout_run() -> Run:
    """Three steps of a larger network, which has dropout."""
    return tiny_run(
        model={"arch": "mobilenet_v2"},
        data={"train_images": 48},
        recipe={"epochs": 1, "mixup_alpha": 0.0},
        measure={"precise_bn_images": 0, "tid": False, "tid_every_steps": None},
        system={"checkpoint_every_steps": 1},
    )


def test_another_seed_is_another_result(undisturbed: Path, tmp_path: Path) -> None:
    other = tiny_run().model_copy(update={"seed": 1})
    assert train(other, tmp_path) == [0]
    with pytest.raises(AssertionError):
        assert_bit_equal(final_state(tmp_path)["model"], final_state(undisturbed)["model"])


def test_two_ranks_train_as_one_that_accumulates(tmp_path: Path) -> None:
    """The same samples behind each step and each statistic, whoever holds them: the same weights."""
    for world_size, folder in ((1, "accumulated"), (2, "shared")):
        run = tiny_run(
            batch={"global_batch_size": 16, "batch_size_per_gpu": 8, "norm_batch_size": 4},
            recipe={"epochs": 1, "mixup_alpha": 0.0},
        )
        assert train(run, tmp_path / folder, world_size=world_size) == [0] * world_size
    one, two = (final_state(tmp_path / folder)["model"] for folder in ("accumulated", "shared"))
    for name in one:
        if "running" not in name and "tracked" not in name:  # the estimates are the first rank's
            torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_and_channels_last_resume_bit_equal_too(tmp_path: Path, precision: str) -> None:
    """With float16 the scale of the loss goes on, too."""
    model = {"arch": "small_resnet11", "norm": {"kind": "xbn", "bfn": "gw"}}
    run = tiny_run(model=model, recipe={"precision": precision, "channels_last": True})
    assert train(run, tmp_path / "undisturbed") == [0]
    assert train(run, tmp_path / "stopped", stop_by=signal.SIGKILL, stop_at=9) == [-9]
    assert train(run, tmp_path / "stopped") == [0]
    assert_bit_equal(final_state(tmp_path / "stopped"), final_state(tmp_path / "undisturbed"))
    assert measured(tmp_path / "stopped") == measured(tmp_path / "undisturbed")


VARIANTS = (
    {"kind": "brn", "relax_batches": [8, 100, 60]},
    {"kind": "mabn", "window": 12},
    {"kind": "bcbn"},
)


@pytest.mark.parametrize("norm", VARIANTS, ids=lambda norm: norm["kind"])
def test_variants_of_bn_resume_bit_equal(tmp_path: Path, norm: dict[str, object]) -> None:
    """Eight batches a step. MABN averages from batch 100 on, so what it keeps of step 12 shows in step 13."""
    run = tiny_run(
        model={"norm": norm},
        batch={"batch_size_per_gpu": 16, "norm_batch_size": 2},
        recipe={"epochs": 3},
        measure={"precise_bn_images": 0},
    )
    assert train(run, tmp_path / "undisturbed") == [0]
    assert train(run, tmp_path / "stopped", stop_by=signal.SIGKILL, stop_at=14) == [-9]
    assert RunPaths(tmp_path / "stopped").checkpoint_steps()[-1] == 12
    assert train(run, tmp_path / "stopped") == [0]
    assert_bit_equal(final_state(tmp_path / "stopped"), final_state(tmp_path / "undisturbed"))
    assert measured(tmp_path / "stopped") == measured(tmp_path / "undisturbed")
    assert tid_of_steps(tmp_path / "stopped") == tid_of_steps(tmp_path / "undisturbed")
    assert len(Record.read(tmp_path / "undisturbed").last_per_layer("esm_sigma", "val")) == 13
