"""Averages of weights: EMA and SWA against recursions by hand, in checkpoints, and as they are measured."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suite.data import Batch, val_loader
from suite.errors import UserError
from suite.experiment import RecipeSpec, Run
from suite.metrics import METRICS
from suite.metrics import OF_AVERAGES as OF_ALL_TASKS
from suite.models import build_model, load_weights
from suite.paths import RunPaths
from suite.record import Record
from suite.shift import probe
from suite.signals import StopFlag
from suite.specs.task_table import TASKS
from suite.studies.spec import is_due
from suite.train.distributed import Ranks
from suite.train.loop import Trainer
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.runs import make_run, tiny_run
from tests.helpers.training_processes import train

CPU = torch.device("cpu")
DECAY = 0.9
AVERAGED = {"ema_decay": DECAY, "swa": {"start": 0.5, "lr": 0.02}}
STEPS_PER_EPOCH = 4

OF_AVERAGES = [name for name in OF_ALL_TASKS if TASKS["classification"].measures(name)]


def trainer(**recipe: Any) -> Trainer:
    """A run of four epochs of four steps on made-up images."""
    run = make_run(
        data={"name": "synthetic", "num_classes": 10, "image_size": 28, "train_images": 32, "val_images": 8},
        batch={"global_batch_size": 8},
        recipe={"epochs": 4, "lr": 0.1, "schedule": "constant", **recipe},
    )
    return Trainer(run, Ranks(0, 0, 1, CPU), None, StopFlag())


def advanced(one: Trainer) -> list[dict[str, Tensor]]:
    """Train to the end, and return the weights and estimates after each step, in float64."""
    generator = torch.Generator().manual_seed(5)
    forward, states = one.forward_module(), []
    for _ in range(one.total_steps):
        batch = Batch(torch.randn(8, 3, 28, 28, generator=generator), torch.arange(8))
        one.advance(forward, iter([batch]))
        states.append({name: value.double() for name, value in one.model.state_dict().items()})
    return states


def test_an_exponential_average_by_hand() -> None:
    """Weights and estimates alike, from the first step's on; the counts are the last network's."""
    one = trainer(ema_decay=DECAY)
    states = advanced(one)
    expected = states[0]
    for state in states[1:]:
        expected = {name: DECAY * mean + (1 - DECAY) * state[name] for name, mean in expected.items()}
    found = one.averages.networks["ema"].state_dict()
    assert found.keys() == states[0].keys()
    for name, value in found.items():
        if name.endswith("num_batches_tracked"):
            assert int(value) == len(states)
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["bn1.running_mean"].double(), states[-1]["bn1.running_mean"])


def test_a_stochastic_average_by_hand() -> None:
    """The mean over the ends of the third and fourth of four epochs, with the last network's estimates."""
    one = trainer(swa={"start": 0.5})
    assert one.averages.networks == {}
    states = advanced(one)
    ends = [states[epoch * STEPS_PER_EPOCH - 1] for epoch in (3, 4)]
    for name, value in one.averages.networks["swa"].state_dict().items():
        is_weight = "running" not in name and "tracked" not in name
        expected = (ends[0][name] + ends[1][name]) / 2 if is_weight else ends[1][name]
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)


def test_training_does_not_depend_on_averages() -> None:
    plain, averaged = trainer(), trainer(ema_decay=DECAY, swa={"start": 0.5})
    for one, other in zip(advanced(plain), advanced(averaged), strict=True):
        assert_bit_equal(one, other)


def test_the_learning_rate_of_swa() -> None:
    recipe = RecipeSpec.model_validate({"epochs": 10, "lr": 0.1, "swa": {"start": 0.7, "lr": 0.03}})
    assert recipe.swa_start_epoch == 7
    assert [recipe.lr_at(epoch) for epoch in (6.99, 7, 9.5)] == [0.1, 0.03, 0.03]
    assert RecipeSpec.model_validate({"epochs": 100, "swa": {"start": 0.29}}).swa_start_epoch == 29
    # Without a learning rate of its own it is the schedule's.
    recipe = RecipeSpec.model_validate({"epochs": 10, "schedule": "cosine", "swa": {}})
    assert recipe.lr_at(9) == RecipeSpec(epochs=10, schedule="cosine").lr_at(9)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"ema_decay": 1.0}, r"recipe\.ema_decay: expected a number > 0 and < 1, or null, got 1"),
        ({"swa": {"start": 1.0}}, r"recipe\.swa\.start: expected a number ≥ 0 and < 1, got 1"),
        ({"swa": {"star": 0.5}}, r"recipe\.swa\.star: unknown key; did you mean 'start'"),
        ({"swa": {"start": 0.1}, "warmup_epochs": 2}, r"after 0 of 6 epochs, within warmup_epochs \(2\)"),
    ],
)
def test_impossible_averages_are_refused(recipe: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_run(recipe={"epochs": 6, **recipe})


def test_averages_are_part_of_the_id_only_where_there_are_any() -> None:
    plain = make_run()
    nulls = make_run(recipe={"epochs": 6, "ema_decay": None, "swa": None})
    others = [make_run(recipe={"epochs": 6, **recipe}) for recipe in ({"ema_decay": 0.9}, {"swa": {}})]
    others.append(make_run(recipe={"epochs": 6, "swa": {"start": 0.5}}))
    assert plain.run_id == nulls.run_id
    assert len({run.run_id for run in (plain, *others)}) == 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    assert train(tiny_run(recipe=AVERAGED), folder) == [0]
    return folder


@pytest.mark.parametrize(("stop_by", "step"), [(signal.SIGTERM, 3), (signal.SIGKILL, 9)])
def test_a_stopped_run_ends_with_the_same_averages(
    undisturbed: Path, tmp_path: Path, stop_by: signal.Signals, step: int
) -> None:
    run = tiny_run(recipe=AVERAGED)
    code = {signal.SIGTERM: 75, signal.SIGKILL: -9}[stop_by]
    assert train(run, tmp_path, stop_by=stop_by, stop_at=step) == [code]
    assert train(run, tmp_path) == [0]
    state = final_state(tmp_path)
    assert int(state["ema"]["n_averaged"]) == 12
    assert int(state["swa"]["n_averaged"]) == 1
    assert_bit_equal(state, final_state(undisturbed))
    assert measured(tmp_path) == measured(undisturbed)


def test_a_run_stopped_between_two_averages_ends_with_the_same_ones(tmp_path: Path) -> None:
    """SWA averages after the third and the fourth epoch of six steps; the stop is between them."""
    run = tiny_run(recipe={**AVERAGED, "epochs": 4})
    assert train(run, tmp_path / "undisturbed") == [0]
    assert train(run, tmp_path / "stopped", stop_by=signal.SIGTERM, stop_at=20) == [75]
    assert train(run, tmp_path / "stopped") == [0]
    state = final_state(tmp_path / "stopped")
    assert int(state["swa"]["n_averaged"]) == 2
    assert_bit_equal(state, final_state(tmp_path / "undisturbed"))
    assert measured(tmp_path / "stopped") == measured(tmp_path / "undisturbed")


def test_what_is_measured_of_averages(undisturbed: Path) -> None:
    """EMA at both epochs' ends, SWA at the second. The values are those of the checkpoint's networks."""
    lines = [line for line in measured(undisturbed) if line["metric"] in OF_AVERAGES]
    assert {(line["metric"], line["epoch"]) for line in lines} == {
        (name, epoch)
        for name in OF_AVERAGES
        for epoch in ((1, 2) if METRICS[name].weights == "ema" else (2,))
    }
    run, record = tiny_run(recipe=AVERAGED), Record.read(undisturbed)
    checkpoint = RunPaths(undisturbed).checkpoint(12)
    loader = val_loader(run, images_per_batch=8, rank=0, world_size=1, device=CPU)
    batches = [(batch.images_NCHW, batch.labels_N) for batch in loader]
    loader.close()
    for weights in ("ema", "swa"):
        model = build_model(run.model).eval()
        load_weights(model, checkpoint, weights)
        with torch.no_grad():
            right = [model(images).argmax(dim=1) == labels for images, labels in batches]
        percent = 100 * float(torch.cat(right).double().mean())
        assert record.last(f"top1_{weights}_percent") == pytest.approx(percent)
        shift = record.last_per_layer(f"esm_mu_scaled_{weights}", "val")
        profile = probe(model, batches)
        expected = {layer.name: layer.esm_mu_scaled for layer in profile.layers}
        assert shift == pytest.approx(expected, rel=1e-4)
        precise = record.last_per_layer(f"esm_mu_scaled_{weights}_precise", "val")
        assert precise != pytest.approx(shift, rel=1e-2)
    raw = build_model(run.model)
    assert "'model' and not 'ema'" in load_weights(raw, checkpoint, "raw")
    assert load_weights(raw, checkpoint) == "'ema' (the moving average), without the prefix 'module.'"


def test_two_ranks_have_the_averages_of_one(tmp_path: Path) -> None:
    """Statistics that span ranks hold a process group, which cannot be copied; norm batch 8 of 2 × 4."""
    batch = {"global_batch_size": 16, "batch_size_per_gpu": 4, "norm_batch_size": 8}
    run = tiny_run(batch=batch, recipe=AVERAGED)
    assert train(run, tmp_path / "whole", world_size=2) == [0, 0]
    assert train(run, tmp_path / "stopped", world_size=2, stop_by=signal.SIGTERM, stop_at=9) == [75, 75]
    assert train(run, tmp_path / "stopped", world_size=2) == [0, 0]
    assert_bit_equal(final_state(tmp_path / "stopped"), final_state(tmp_path / "whole"))
    assert measured(tmp_path / "stopped") == measured(tmp_path / "whole")
    assert {line["metric"] for line in measured(tmp_path / "whole")} >= set(OF_AVERAGES)
    record = Record.read(tmp_path / "whole")
    shares = [record.last(f"{part}_share") for part in ("data_wait", "communication", "compute")]
    assert sum(shares) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares)
    assert record.last("epoch_end_time_s") > 0


def test_when_a_study_can_use_what_is_measured_of_averages() -> None:
    run = make_run(
        measure={"eval_every_epochs": 2, "probe_every_epochs": 3}, recipe={"epochs": 6, "ema_decay": 0.9}
    )
    due = {name: {epoch for epoch in range(1, 7) if is_due(run, name, epoch)} for name in OF_AVERAGES}
    assert due["top1_ema_percent"] == {2, 4, 6}
    assert due["top1_ema_precise_percent"] == due["esm_sigma_scaled_ema"] == {3, 6}
    assert due["top1_swa_percent"] == due["esm_mu_scaled_swa_precise"] == set()
    late = make_run(recipe={"epochs": 6, "swa": {"start": 0.5}})
    assert {epoch for epoch in range(1, 7) if is_due(late, "top1_swa_percent", epoch)} == {4, 5, 6}
    model = {"arch": "small_resnet11", "norm": {"kind": "gn"}}
    free = make_run(model=model, recipe={"epochs": 6, "ema_decay": 0.9})
    assert is_due(free, "top1_ema_percent", 6)
    assert not is_due(free, "top1_ema_precise_percent", 6)


def test_a_network_without_bn_has_averages_without_statistics(tmp_path: Path) -> None:
    run: Run = tiny_run(
        model={"arch": "small_resnet11", "norm": {"kind": "gn"}},
        recipe={"epochs": 1, "ema_decay": 0.5},
        data={"train_images": 32},
    )
    assert train(run, tmp_path) == [0]
    found = {line["metric"] for line in measured(tmp_path)}
    assert found & set(OF_AVERAGES) == {"top1_ema_percent"}
