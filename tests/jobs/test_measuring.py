"""Whatever measures a network after its run does so in the run's own arithmetic."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import suite.models
from jobs.commands import diagnose, probe, probe_network, robust
from jobs.trained import noise, robustness
from suite import data, shift
from suite.data import shifted
from suite.experiment import Run
from suite.paths import RunPaths
from suite.shift import robustness as shift_robustness
from suite.specs.recipe import PRECISIONS
from suite.specs.robustness import RobustnessPlan
from tests.helpers.runs import make_run


class Seen(Exception):
    """Raised by what measures, with whether convolutions and products are TF32 there."""


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def see(*_: Any, **__: Any) -> None:
        raise Seen(torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)

    for name in ("probe", "diagnose", "perturb"):
        monkeypatch.setattr(shift, name, see)
    monkeypatch.setattr(shift_robustness, "survey", see)
    monkeypatch.setattr(suite.models, "load_weights", lambda *_: None)
    monkeypatch.setattr(noise, "last_step", lambda _: 1)
    monkeypatch.setattr(robustness, "last_step", lambda _: 1)
    monkeypatch.setattr(data, "folder_loader", lambda *_, **__: images())


def images() -> Any:
    class Images(Iterator[Any]):
        bad_images: dict[str, str] = {}  # noqa: RUF012

        def __next__(self) -> Any:
            raise StopIteration

        def close(self) -> None:
            pass

    return Images()


def subject(run: Run | None) -> Any:
    return SimpleNamespace(
        run=run,
        network=None,
        data=make_run().data,
        device=torch.device("cpu"),
        given=SimpleNamespace(is_imagenets=True),
        input="",
        taken=None,
        title="",
        is_average=False,
        loader=lambda *_: images(),
        num_images=lambda _: 12,
        accuracy=lambda *_: None,
        check_outputs=lambda *_: None,
    )


def by_robust(run: Run | None, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(probe_network, "subject_of", lambda *_, **__: subject(run))
    patch.setattr(shifted, "is_grey", lambda _: False)
    robust._measure_network({}, RobustnessPlan(corruptions=("contrast",)), "contrast", False)


MEASURES: dict[str, Callable[[Run, Path, pytest.MonkeyPatch], object]] = {
    "probe": lambda run, *_: probe._measure(subject(run), probe.Split.VAL, 4, 2, set(), False),
    "diagnose": lambda run, *_: diagnose._diagnosed(subject(run), 2, 4, 4, False),
    "robust": lambda run, _, patch: by_robust(run, patch),
    "robustness of runs": lambda run, folder, _: robustness.measure(run, RunPaths(folder), RobustnessPlan()),
    "noise of runs": lambda run, folder, _: noise.measure(
        run, RunPaths(folder), 1, noise.NoisePlan((0.0,), 1, 32, (run.model.norm,))
    ),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MEASURES)
def test_a_runs_network_is_measured_in_its_arithmetic(
    name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(recipe={"epochs": 6, "precision": precision})
    former = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(Seen) as seen:
        MEASURES[name](run, tmp_path, monkeypatch)
    of_run = {"fp32": (False, False), "tf32": (True, True), "bf16": (True, False), "fp16": (True, False)}
    assert seen.value.args == of_run[precision]
    assert former == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def test_a_network_of_no_run_is_measured_in_float32() -> None:
    with pytest.raises(Seen) as seen:
        probe._measure(subject(None), probe.Split.VAL, 4, 2, set(), False)
    assert seen.value.args == (False, False)
