"""The configs that come with shiftbench, by name and by their path in the repository."""

from collections import Counter
from pathlib import Path

import pytest

from suite import shipped
from suite.config import load_experiment
from suite.errors import UserError
from suite.studies.study import load_study


def test_each_name_is_one_config() -> None:
    assert max(Counter(shipped.names()).values()) == 1
    assert {"demo", "noise", "small-batch-demo"} <= set(shipped.names())


@pytest.mark.parametrize(
    "name", ["demo", "noise", "paper/noise", "configs/experiments/demo.yaml", "configs/claims.yaml"]
)
def test_a_name_is_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = shipped.find(Path(name))
    assert found.is_relative_to(shipped.CONFIGS)
    assert found.stem == Path(name).stem
    assert found.is_file()


def test_what_the_user_has_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for mine in (Path("demo"), Path("configs/experiments/demo.yaml")):
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("data: {name: synthetic}\nmodel: {arch: resnet18}\nseeds: [7]\n")
        assert [run.seed for run in load_experiment(mine).runs] == [7]
    Path("demo").unlink()
    Path("demo").mkdir()  # such as a folder for its runs
    assert len(load_experiment(Path("demo")).runs) == 24
    assert load_study(Path("small-batch-demo")).name == "small-batch-demo"


def test_a_name_that_is_none_is_refused_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"^demoo: no such file, and no shipped config; did you mean 'demo'\?"
    ):
        load_experiment(Path("demoo"))
    with pytest.raises(UserError, match=r"^x/y\.yaml: no such file$"):
        load_experiment(Path("x/y.yaml"))
