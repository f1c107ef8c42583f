"""Files and overrides that are refused: numbers of YAML 1.1, empty sections, huge studies, other kinds."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.config import load_experiment
from suite.errors import UserError
from suite.studies.study import load, load_study
from tests.helpers.study_files import BASE, grid, write

pytestmark = pytest.mark.timeout(60)  # what is not bounded takes hours
MODEL = "model: {arch: small_resnet11}\n"
DATA = "data: {name: fashion-mnist-7k, image_size: 28}\n"


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    """Return the sentence of a refusal."""
    with pytest.raises(UserError) as refused:
        call(*arguments)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert len(sentence) < 1000
    return sentence


def experiment(folder: Path, text: str) -> Path:
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


@pytest.mark.parametrize("value", ["off", "0", "[]", '""', "false", "no", "{kind}", "[[]]", "[off]"])
@pytest.mark.parametrize("section", ["recipe", "batch", "measure", "system", "model", "data"])
def test_a_section_that_is_no_mapping_is_refused(section: str, value: str, tmp_path: Path) -> None:
    others = {"model": MODEL, "data": DATA} | {section: f"{section}: {value}\n"}
    sentence = refusal(load_experiment, experiment(tmp_path, "".join(others.values())))
    assert "mine.yaml: " in sentence
    assert section in sentence.partition("mine.yaml: ")[2]


def test_an_empty_section_means_the_defaults(tmp_path: Path) -> None:
    plain = load_experiment(experiment(tmp_path, MODEL + DATA)).runs
    sections = "recipe:\nbatch: ~\nmeasure:\nsystem: {}\n"
    assert load_experiment(experiment(tmp_path, MODEL + DATA + sections)).runs == plain


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("recipe: {epochs: 1:30}", "recipe.epochs: expected a whole number ≥ 1, got '1:30'"),
        ("recipe: {epochs: 010}", "mine.yaml:3: recipe.epochs: 010 has a leading zero"),
        ("recipe: {lr: .inf}", "mine.yaml:3: recipe.lr: expected a finite number, got .inf"),
        ("recipe: {lr: '.inf'}", "recipe.lr: expected a number > 0, got '.inf'"),
        ("recipe: {lr: 'inf'}", "recipe.lr: expected a number > 0, got 'inf'"),
        ("recipe: {lr: nan}", "recipe.lr: expected a number > 0, got 'nan'"),
        ("recipe: {milestones: [30, true]}", "recipe.milestones.1: expected a list, each item a number"),
        ("recipe: {lr: 1}\nrecipe: {lr: 2}", "mine.yaml:4: recipe: given twice"),
        ("seeds: [true]", "seeds: expected a whole number"),
        ("norm: bn", "mine.yaml: norm: unknown key; did you mean 'model.norm'?"),
        ("epochs: 3", "mine.yaml: epochs: unknown key; did you mean 'recipe.epochs'?"),
        (f"recipe: {{epochs: '{'9' * 400}'}}", "recipe.epochs: "),
        (
            "batch: {global_batch_size: 1000000000000039, batch_size_per_gpu: 1000000000000038}",
            "batch: global",
        ),
        ("recipe: {lr: '???'}", "recipe.lr: missing; replace the placeholder"),
        ("name: []", "name: expected text, got []"),
        (
            "recipe: {lr: [" + "1, " * 400 + "], momentum: [" + "0, " * 400 + "]}",
            "recipe.lr, recipe.momentum: 160,000 combinations, more than 100,000 runs",
        ),
    ],
)
def test_numbers_of_an_experiment(text: str, sentence: str, tmp_path: Path) -> None:
    assert sentence in refusal(load_experiment, experiment(tmp_path, MODEL + DATA + text))


@pytest.mark.parametrize(
    "keys",
    [{"budget": {"wall_hours": "1:30"}}, {"trials": {"timeout_s": "0:30"}}, {"num_samples": True}],
)
def test_numbers_of_a_study(keys: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, **keys)
    path.write_text(path.read_text().replace("'", ""))  # unquoted, as people write it
    section = next(iter(keys))
    assert f"mine.yaml: {section}" in refusal(load_study, path)
    assert "expected a" in refusal(load_study, path)


def norms(*values: Any, **when: Any) -> dict[str, Any]:
    """A space of the norms and, under a condition, the norm batch."""
    conditioned = {**grid(4, 16), "when": {key.replace("__", "."): value for key, value in when.items()}}
    return {"space": {"model.norm": grid(*values), "batch.norm_batch_size": conditioned}}


BN, GN, XBN = {"kind": "bn"}, {"kind": "gn"}, {"kind": "xbn", "position": "p1"}
WHEN = "space: batch.norm_batch_size: when: "


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (norms(BN, GN, model__norm__knid="bn"), WHEN + "model.norm.knid: no point has 'bn'"),
        (norms(BN, GN, model__norm__kind="BN"), "no point has 'BN'; they have 'bn', 'gn'"),
        (norms(BN, GN, model__norm__kind=["bn", "xbn"]), "no point has 'xbn'"),
        (norms(BN, GN, model__norm__kind=[]), "an empty list holds nowhere"),
        (norms(BN, GN, model__norm__position="p1"), "model.norm.position: no point has 'p1'"),
        (norms(BN, GN, model__norm__kind__x="bn"), "model.norm.kind.x: no point has 'bn'"),
        (norms(XBN, GN, model__norm__position="p3"), "no point has 'p3'; they have 'p1', null"),
        (norms("bn", "gn", model__norm__kind="xbn"), "no point has 'xbn'; they have 'bn', 'gn'"),
        (
            {
                "space": {
                    "recipe.epochs": grid(1, 2),
                    "recipe.lr": {**grid(0.1), "when": {"recipe.epochs": "2"}},
                }
            },
            "no point has '2'; they have 1, 2",
        ),
        (
            {
                "space": {
                    "recipe.lr": {"kind": "uniform", "low": 0.1, "high": 0.2},
                    "recipe.momentum": {**grid(0.5), "when": {"recipe.lr": 0.15}},
                }
            },
            "no point has 0.15; they have no value that can be compared",
        ),
        (
            {
                "space": {
                    "model.norm": grid(BN, GN),
                    "batch.norm_batch_size": {**grid(4), "when": {"model.norm.kind": "bn"}},
                    "recipe.lr": {**grid(0.2), "when": {"model.norm.kind": "gn", "batch.norm_batch_size": 4}},
                }
            },
            "recipe.lr: when: its conditions hold together at no point",
        ),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(keys: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    found = refusal(load_study, write(tmp_path, **keys))
    assert "mine.yaml: space: " in found
    assert sentence in found


def test_a_condition_that_can_hold_is_kept(tmp_path: Path) -> None:
    for keys in (
        norms(BN, GN, model__norm__kind="bn"),
        norms("bn", "gn", model__norm__kind="bn"),
        norms(BN, XBN, model__norm__kind=["bn", "xbn"]),
        norms(XBN, GN, model__norm__position="p1"),
    ):
        assert len(load_study(write(tmp_path, **keys)).points) in (3, 4)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"space": {f"recipe.{one}": grid(*range(1, 11)) for one in "abcdefg"}}, "space: 10,000,000 points"),
        (
            {"space": {"recipe.lr": {"kind": "uniform", "low": 0.1, "high": 1}}, "num_samples": 100_000_000},
            "num_samples: 100,000,000 points × 3 seeds are more than 100,000 runs",
        ),
        ({"search": {"kind": "optuna", "num_points": 10**9}}, "search.num_points: 1,000,000,000 points"),
        ({"num_samples": 10**30}, "num_samples: 1000000000000000000000000000000 is too large a number"),
    ],
)
def test_a_study_is_bounded(keys: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    assert sentence in refusal(load_study, write(tmp_path, **keys))


def test_a_search_through_a_large_space_is_not_refused(tmp_path: Path) -> None:
    space = {
        f"recipe.{name}": grid(*(n / 1000 for n in range(1, 31))) for name in ("lr", "gamma", "momentum")
    }
    space |= {
        f"recipe.{name}": grid(*(n / 1000 for n in range(30))) for name in ("weight_decay", "label_smoothing")
    }
    study = load_study(write(tmp_path, space=space, search={"kind": "optuna", "num_points": 3}))
    assert study.num_trials == 9


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"scheduler": "none"}, {"scheduler": {"kind": "none"}}),
        ({"search": "all"}, {"search": {"kind": "all"}}),
        ({"space": {"recipe.lr": [0.1, 0.2]}}, {"space": {"recipe.lr": grid(0.1, 0.2)}}),
        ({"space": {"model.norm": ["bn", "gn"]}}, {"space": {"model.norm": grid(BN, GN)}}),
        (
            {"base": {**BASE, "model": {"arch": "small_resnet11", "norm": "gn"}}},
            {"base": {**BASE, "model": {"arch": "small_resnet11", "norm": GN}}},
        ),
    ],
)
def test_short_forms_are_the_long_ones(short: dict[str, Any], long: dict[str, Any], tmp_path: Path) -> None:
    assert load_study(write(tmp_path, **short)).runs == load_study(write(tmp_path, **long)).runs


def test_asha_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, scheduler="asha")
    assert load_study(path, ["recipe.epochs=3"]).spec.scheduler.kind == "asha"
    assert "scheduler.kind: unknown kind 'ahsa'; valid: none, asha" in refusal(
        load_study, path, ["scheduler=ahsa"]
    )
    assert "search.num_points: missing; expected a whole number ≥ 1" in refusal(
        load_study, path, ["search=optuna"]
    )


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("recipe.lr=[1", "override 'recipe.lr=[1': recipe.lr: not valid YAML: "),
        ("recipe.lr={a: 1, a: 2}", "recipe.lr.a: given twice"),
        ("recipe.epochs=010", "recipe.epochs: 010 has a leading zero"),
        ("recipe.lr=.nan", "recipe.lr: expected a finite number"),
        ("=3", "override '=3': expected key=value"),
        ("recipe..lr=3", "override 'recipe..lr=3': expected key=value"),
        ("recipe.lr", "override 'recipe.lr': expected key=value"),
        ("recipe.lr=fast", "override 'recipe.lr=fast': recipe.lr: expected a number > 0, got 'fast'"),
        ("model.arch.x=1", "override 'model.arch.x=1': model.arch.x does not lead to a field"),
        ("data.path=${oc.env:NOT_SET}", "data.path: the environment variable NOT_SET is not set"),
        ("data.path=${HOME}", "data.path: '${HOME}' cannot be resolved; ${oc.env:NAME} is"),
        ("data.path=${", "data.path: '${' cannot be resolved"),
        ("data.path=${data.path}", "data.path: '${data.path}' cannot be resolved"),
        ("recipe.lr=" + "[" * 5000, "recipe.lr: nested deeper than 32 levels"),
        ("recipe.lr=!!python/name:os.system", "recipe.lr: the tag python/name:os.system has no meaning"),
        ("data.pa\nth=1", "'data.pa\\nth=1': expected key=value"),
        ("recipe.\udcff=1", "'recipe.\\udcff=1': expected key=value"),
    ],
)
def test_a_bad_override_is_blamed_itself(override: str, sentence: str, tmp_path: Path) -> None:
    found = refusal(load_experiment, experiment(tmp_path, MODEL + DATA), [override])
    assert "mine.yaml: override " in found
    assert sentence in found


def test_an_override_reaches_into_lists(tmp_path: Path) -> None:
    path = experiment(tmp_path, "model: {arch: small_resnet11, norm: [bn, {kind: gn}]}\n" + DATA)
    runs = load_experiment(path, ["model.norm.1.num_groups=4", "model.norm[0]=xbn"]).runs
    assert [run.model.norm.label for run in runs] == ["XBN-P2-GN8", "GN4"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "",
            "mine.yaml: expected a mapping with the keys of an experiment (model, data, batch, recipe, …); "
            "the file is empty",
        ),
        ("# nothing\n", "the file is empty"),
        ("- 1\n", "; got [1]"),
        (
            "scheduler: slurm\npartition: gpu\n",
            "mine.yaml: scheduler: this is a cluster, but an experiment is expected",
        ),
        ("partition: gpu\n", "partition: this is a cluster"),
        ("data: {}\n", "mine.yaml: model.arch: missing; expected text"),
    ],
)
def test_a_file_of_another_kind(text: str, sentence: str, tmp_path: Path) -> None:
    assert sentence in refusal(load, experiment(tmp_path, text))


def test_a_base_that_is_at_fault_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, base={**BASE, "recipe": {"epochs": "ten"}})
    assert refusal(load_study, path).endswith(
        "base.yaml: recipe.epochs: expected a whole number ≥ 1, got 'ten'"
    )
    (tmp_path / "base.yaml").write_text("scheduler: local\n")
    assert "base.yaml: scheduler: this is a cluster" in refusal(load_study, path)
    (tmp_path / "base.yaml").write_text(path.read_text())
    assert "base.yaml: space: this is a study, but an experiment is expected" in refusal(load_study, path)
    assert "this is an experiment, but a study is expected" in refusal(
        load_study, experiment(tmp_path, MODEL)
    )


def test_a_file_that_can_be_read_once_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.yaml")
    writer = threading.Thread(target=pipe.write_text, args=(MODEL + DATA,))
    writer.start()
    assert len(load(pipe).runs) == 1
    writer.join()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: x\nmodel: \xff\n")
    assert "latin.yaml:2: not valid YAML: it is not UTF-8" in refusal(load, tmp_path / "latin.yaml")
    assert "is a folder" in refusal(load, tmp_path)
    assert "File name too long" in refusal(load, tmp_path / ("x" * 300))
    assert "longer than 1,000,000 characters" in refusal(load, Path("/dev/zero"))
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + (MODEL + DATA).encode())
    assert len(load(tmp_path / "bom.yaml").runs) == 1
