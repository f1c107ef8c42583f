"""The tables of a study's closed choices: a new entry is seen everywhere, a forgotten place is loud."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest

from jobs.tune.scheduler import StoppingScheduler
from jobs.tune.search import SEARCHERS, searcher_for
from suite.studies.space import AXES, AxisSpec, kinds, points
from suite.studies.spec import SCHEDULERS, SEARCHES, Objective, StoppingSpec, StudySpec
from tests.helpers.study_files import write

ROOT = Path(__file__).parents[2]
# Loads a module from edited source, in the place of the real one, before anything imports it.
PREPARE = """
import importlib.util, json, sys
from pathlib import Path
name, source, file = sys.argv[1:4]
spec = importlib.util.spec_from_file_location(name, importlib.util.find_spec(name).origin)
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
exec(compile(source, name, "exec"), module.__dict__)
from suite.errors import UserError
from suite.studies.spec import StudySpec
from suite.studies.study import load_study
"""
SCHEDULER = """
class First(Asha):
    kind: Literal["first"]

"""
AXIS = """
class Powers(AxisSpec):
    kind: Literal["powers"]
    up_to: int

    @property
    def options(self):
        return [2**n for n in range(1, self.up_to + 1)]

"""


def run_with(name: str, definition: str, table: str, script: str, file: Path) -> Any:
    """Runs a script with a class more in a module, which is added to one of its tables."""
    source = (ROOT / f"{name.replace('.', '/')}.py").read_text()
    added = definition.split()[1].partition("(")[0]
    begin = source.index(f"{table}: tuple")
    end = source.index(")\n", begin)
    edited = source[:begin] + definition + source[begin:end] + f", {added}" + source[end:]
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + script, name, edited, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_made_up_scheduler_is_seen_everywhere(tmp_path: Path) -> None:
    file = write(tmp_path, scheduler={"kind": "first", "grace_epochs": 2}, base=longer())
    script = """
study = load_study(Path(file))
try:
    load_study(Path(file), ["scheduler.kind=frist"])
except UserError as error:
    refusal = str(error)
schema = json.dumps(StudySpec.model_json_schema())
print(json.dumps([study.spec.scheduler.rule_arguments(9), refusal, '"first"' in schema]))
"""
    arguments, refusal, is_in_schema = run_with("suite.studies.spec", SCHEDULER, "SCHEDULERS", script, file)
    assert arguments == {"max_t": 10, "grace_period": 2, "reduction_factor": 4.0}
    assert "unknown kind 'frist'; valid: none, asha, median, first" in refusal
    assert is_in_schema


def longer() -> dict[str, Any]:
    from tests.helpers.study_files import BASE

    return {**BASE, "recipe": {"epochs": 4}}


def test_a_made_up_axis_is_seen_everywhere(tmp_path: Path) -> None:
    file = write(tmp_path, space={"batch.norm_batch_size": {"kind": "powers", "up_to": 3}})
    script = """
values = [point.values["batch.norm_batch_size"] for point in load_study(Path(file)).points]
print(json.dumps([values, StudySpec.model_fields["space"].description]))
"""
    values, description = run_with("suite.studies.space", AXIS, "AXES", script, file)
    assert values == [2, 4, 8]
    assert "grid | scaled | choice | uniform | loguniform | powers" in description


def test_an_axis_without_options_or_draws_is_refused_loudly() -> None:
    class Empty(AxisSpec):
        kind: Literal["empty"] = "empty"

    class Drawn(Empty):
        is_drawn = True

    for one in (Empty, Drawn):
        with pytest.raises(NotImplementedError, match=rf"{one.__name__}\.options"):
            list(points({"recipe.lr": one()}, 1, 0))


def test_a_scheduler_with_a_rule_that_does_not_exist_is_refused_loudly(tmp_path: Path) -> None:
    class Wrong(StoppingSpec):
        rule: ClassVar[str] = "ray.tune.schedulers:NoSuchRule"
        kind: Literal["wrong"] = "wrong"

        def rule_arguments(self, max_epochs: int) -> dict[str, Any]:
            return {}

    folder: Any = SimpleNamespace()
    with pytest.raises(AttributeError, match="NoSuchRule"):
        StoppingScheduler(Wrong(), Objective(metric="top1_percent"), 4, tmp_path, folder)


def test_every_search_has_a_searcher_and_one_without_is_refused_loudly() -> None:
    assert set(SEARCHERS) == set(kinds(SEARCHES))
    made_up = SimpleNamespace(
        study=SimpleNamespace(spec=SimpleNamespace(search=SimpleNamespace(kind="random")))
    )
    with pytest.raises(
        NotImplementedError, match=r"search\.kind random: add its searcher to jobs\.tune\.search"
    ):
        searcher_for(made_up, None)  # type: ignore[arg-type]


def test_the_tables_name_each_choice_once() -> None:
    for table in (AXES, SCHEDULERS, SEARCHES):
        assert len(set(kinds(table))) == len(table)
    assert str(StudySpec.model_fields["space"].description).count("|") == len(AXES) - 1
