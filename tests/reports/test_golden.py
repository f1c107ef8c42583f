"""A whole report over fixed records, byte for byte. `UPDATE_GOLDEN=1 pytest` on this file takes a new one."""

import json
import os
import shutil
from pathlib import Path

import pytest

from reports.write.markdown import escape_markdown
from reports.write.report_folder import build_report
from tests.helpers.records import write_sweep

GOLDEN = Path(__file__).parent / "golden"
BATCH = {"global_batch_size": 64, "norm_batch_size": [4, 64]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a report writes as text, by name, seen from a folder of its own: no path of this machine."""
    home, here = tmp_path_factory.mktemp("golden"), Path.cwd()
    os.chdir(home)
    try:
        for number, folder in enumerate(write_sweep(Path("runs"), batch=BATCH)):
            status = folder / "status.json"
            times = {"started_at": 0.0, "updated_at": 900.0 + number}
            status.write_text(json.dumps(json.loads(status.read_text()) | times))
            if number == 1:
                (folder / "log.txt").write_text("loss is nan\n")
        build_report([Path("runs")], Path("out"))
    finally:
        os.chdir(here)
    files = [home / "out" / "report.md", home / "out" / "results.csv", *(home / "out" / "tables").iterdir()]
    typed_in = escape_markdown(str(home))
    return {file.name: file.read_text().replace(typed_in, "FOLDER") for file in files}


def test_the_report_is_the_golden_one(made: dict[str, str]) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        shutil.rmtree(GOLDEN, ignore_errors=True)
        GOLDEN.mkdir()
        for name, text in made.items():
            (GOLDEN / name).write_text(text)
        pytest.skip("the golden report was written anew: look at what changed, with git diff, and commit it")
    expected = {file.name: file.read_text() for file in GOLDEN.iterdir()}
    assert made.keys() == expected.keys()
    for name, text in expected.items():
        assert made[name] == text, f"{name} is not as it was; if it should not be: see CONTRIBUTING.md"


def test_the_golden_report_names_no_machine(made: dict[str, str]) -> None:
    for name, text in made.items():
        assert str(Path.home()) not in text, name
        assert "/tmp" not in text, name
