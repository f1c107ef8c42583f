"""`import shiftbench`: what it gives, and that it costs next to nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import shiftbench
from suite.models import convert
from suite.shift import probe
from tests.helpers.records import expand_runs, write_run


def test_every_name_is_found_and_is_the_one_of_the_library() -> None:
    assert {name for name in shiftbench.__all__ if getattr(shiftbench, name, None) is None} == set()
    assert (shiftbench.probe, shiftbench.convert) == (probe, convert)
    assert shiftbench.robustness.measure_shift
    assert set(shiftbench.__all__) <= set(dir(shiftbench))
    with pytest.raises(AttributeError, match="no attribute 'prob'"):
        shiftbench.prob  # noqa: B018


def test_the_import_loads_nothing_but_itself_and_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import shiftbench; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"shiftbench", "suite"}


def test_without_torch_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import shiftbench\n"
    code += "try: shiftbench.probe\nexcept shiftbench.UserError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "shiftbench.probe: torch is not installed: pip install 'shiftbench[train]'\n"


@pytest.mark.parametrize(("arch", "outputs"), [("resnet18", 1000), ("small_resnet11", 10), ("mlp10", 10)])
def test_a_network_without_a_number_of_classes_has_its_familys(arch: str, outputs: int) -> None:
    with torch.device("meta"):
        model = shiftbench.build_model(shiftbench.ModelSpec(arch=arch))
    assert model.fc.out_features == outputs


def test_runs_are_a_table_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    runs = expand_runs()[:2]
    for run in runs:
        write_run(tmp_path / "runs", run, top1_percent=(50.0, 60.5))
    table = shiftbench.read_runs("runs")
    assert set(table.run_id) == {run.run_id for run in runs}
    assert list(table.top1_percent) == [60.5, 60.5]
    assert all((tmp_path / folder / "run.json").exists() for folder in table.folder)
    assert shiftbench.report("runs", out="pages").html == Path("pages/index.html")
    with pytest.raises(shiftbench.UserError, match="nowhere: no such folder"):
        shiftbench.read_runs("nowhere")
