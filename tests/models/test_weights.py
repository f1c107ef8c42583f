"""Checkpoints as other training code writes them."""

import argparse
import collections
import datetime
import io
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from suite.errors import UserError
from suite.models import load_weights

State = dict[str, Tensor]


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def filled(value: float) -> State:
    return {name: torch.full_like(tensor, value) for name, tensor in network().state_dict().items()}


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


RNG = ("MT19937", np.arange(4, dtype=np.uint32), 7)  # as numpy states it
OPTIONS = argparse.Namespace(lr=0.1, model="resnet50", momenta=[0.9])
FORMS: dict[str, tuple[Callable[[State], Any], str]] = {
    "torchvision's references": (
        lambda s: {"model": s, "optimizer": {"state": {}}, "epoch": 3, "args": OPTIONS},
        "'model'",
    ),
    "timm": (
        lambda s: {"epoch": 3, "arch": "resnet50", "state_dict": s, "args": OPTIONS, "metric": np.float64(7)},
        "'state_dict'",
    ),
    "numpy's numbers": (
        lambda s: {"model_state_dict": s, "loss": np.float32(1.5), "step": np.int64(3)},
        "'model_state_dict'",
    ),
    "Lightning": (
        lambda s: {"state_dict": prefixed("model.", s), "pytorch-lightning_version": "2"},
        "'state_dict', without the prefix 'model.'",
    ),
    "DeepSpeed": (lambda s: {"module": s, "ds_version": "0.1"}, "'module'"),
    "AveragedModel": (
        lambda s: {"n_averaged": torch.tensor(3), **prefixed("module.", s)},
        "the whole file, without the prefix 'module.'",
    ),
    "a backbone": (lambda s: prefixed("backbone.", s), "the whole file, without the prefix 'backbone.'"),
    "compiled, then parallel": (
        lambda s: {"model": prefixed("module._orig_mod.", s)},
        "'model', without the prefix 'module._orig_mod.'",
    ),
    "parallel, then compiled": (
        lambda s: {"model": prefixed("_orig_mod.module.", s)},
        "'model', without the prefix '_orig_mod.module.'",
    ),
    "a part compiled": (
        lambda s: {"model": {f"module.{n[:2]}_orig_mod.{n[2:]}": tensor for n, tensor in s.items()}},
        "'model', without the prefix 'module.'",
    ),
    "paths and states of generators": (
        lambda s: {"model": s, "args": argparse.Namespace(data=Path("/x")), "rng": RNG},
        "'model'",
    ),
    "of an average within": (
        lambda s: {"model": filled(9.0), "model_ema": {"module": s}},
        "'model_ema' (the moving average)",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_usual_forms_load_and_say_what_was_taken(form: str, tmp_path: Path) -> None:
    wrap, phrase = FORMS[form]
    torch.save(wrap(filled(2.0)), tmp_path / "w.pt")
    model = network()
    assert load_weights(model, tmp_path / "w.pt") == phrase
    assert {float(tensor.double().mean()) for tensor in model.state_dict().values()} == {2.0}


def test_the_average_is_taken_unless_the_weights_are_asked_for(tmp_path: Path) -> None:
    torch.save({"state_dict": filled(1.0), "state_dict_ema": filled(2.0)}, tmp_path / "w.pt")
    model = network()
    for which, value, phrase in (
        (None, 2.0, "'state_dict_ema' (the moving average)"),
        ("ema", 2.0, "'state_dict_ema' (the moving average)"),
        ("raw", 1.0, "'state_dict' and not 'state_dict_ema'"),
    ):
        assert load_weights(model, tmp_path / "w.pt", which) == phrase  # type: ignore[arg-type]
        assert float(model[0].bias.detach().mean()) == value  # type: ignore[index]
    torch.save({"state_dict": filled(1.0)}, tmp_path / "raw.pt")
    with pytest.raises(UserError, match=r"raw\.pt: holds no moving average of weights"):
        load_weights(model, tmp_path / "raw.pt", "ema")


def test_safetensors(tmp_path: Path) -> None:
    save_file(prefixed("model.", filled(3.0)), tmp_path / "w.safetensors")
    model = network()
    assert load_weights(model, tmp_path / "w.safetensors") == "the whole file, without the prefix 'model.'"
    assert float(model[3].bias.detach().mean()) == 3.0  # type: ignore[index]
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:100])
    for name, words in (("cut", "not a readable checkpoint"), ("none", "no such checkpoint")):
        with pytest.raises(UserError, match=f"{name}.safetensors: {words}"):
            load_weights(model, tmp_path / f"{name}.safetensors")


class Harmful:
    """Would run code if it were loaded."""

    def __reduce__(self) -> Any:
        return print, ("owned",)


class Settings:
    pass


class Options(dict[str, int]):
    pass


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (Harmful(), "builtins.print|print"),
        (Settings(), r"\S+\.Settings"),
        (Options(a=1), r"\S+\.Options"),
        (os.system, r"posix\.system"),
        (collections.deque([1]), r"collections\.deque"),
        (collections.defaultdict(int), r"collections\.defaultdict"),
        (datetime.datetime(2026, 11, 30), r"datetime\.datetime"),
        (np.array([Settings(), None]), r"numpy\.dtypes\.ObjectDType"),
        (np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]), r"numpy\.dtypes\.VoidDType"),
        (np.random.default_rng(0), r"numpy\.random\._pickle\.__generator_ctor"),
        (np.float64.mean, r"\S*getattr"),
    ],
)
def test_other_classes_are_named_and_not_made(
    thing: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": filled(1.0), "args": thing}, tmp_path / "w.pt", pickle_module=pickle)
    said = rf"it holds an object of ({name}), and loading it could run code; save a state dict alone"
    with pytest.raises(UserError, match=rf"w\.pt: not a readable checkpoint of tensors: {said}"):
        load_weights(network(), tmp_path / "w.pt")
    assert "owned" not in capsys.readouterr().out


def test_values_of_numpy_of_every_plain_kind(tmp_path: Path) -> None:
    numbers = [np.zeros(1, code)[0] for code in (*np.typecodes["AllFloat"], *np.typecodes["AllInteger"], "?")]
    others = [np.str_("resnet50"), np.bytes_(b"x"), np.datetime64("2026-11-30"), np.timedelta64(3, "s")]
    arrays = [np.array([value, value]) for value in (*numbers, *others)]
    torch.save({"model": filled(2.0), "best": [*numbers, *others, *arrays]}, tmp_path / "w.pt")
    assert load_weights(network(), tmp_path / "w.pt") == "'model'"


def test_other_forms_of_a_file_are_named(tmp_path: Path) -> None:
    torch.save({"model": filled(1.0)}, tmp_path / "four.pt", pickle_protocol=4)
    torch.jit.script(network()).save(str(tmp_path / "script.pt"))
    for name, words in (
        ("four", "another pickle protocol than 2"),
        ("script", "it is a TorchScript archive"),
    ):
        with pytest.raises(UserError, match=rf"{name}\.pt: not a readable checkpoint of tensors: .*{words}"):
            load_weights(network(), tmp_path / f"{name}.pt")


@pytest.mark.parametrize("is_zip", [True, False])
def test_damaged_files_are_refused_in_a_sentence(is_zip: bool, tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save(
        {"state_dict": filled(1.0), "args": OPTIONS, "rng": RNG}, whole, _use_new_zipfile_serialization=is_zip
    )
    chance, refusals = random.Random(0), []
    for _ in range(300):
        data = bytearray(whole.getvalue())
        for _ in range(chance.choice((1, 4, 64))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (tmp_path / "w.pt").write_bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
        try:
            load_weights(network(), tmp_path / "w.pt")
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    for said in refusals:
        assert said.startswith(f"{tmp_path}/w.pt: ")
        assert "\n" not in said
        assert "Weights only load failed" not in said


def test_a_prefix_of_only_some_names_is_not_removed(tmp_path: Path) -> None:
    state = {**prefixed("module.", filled(1.0)), "extra": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"does not fit the model: .* missing"):
        load_weights(network(), tmp_path / "w.pt")
