"""The experiments that the repository ships are valid, and say what a user must know."""

from pathlib import Path

import pytest

from suite.config import load_experiment

CONFIGS = sorted((Path(__file__).parent.parent / "configs" / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_experiment_is_valid_and_opens_with_its_command(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    assert load_experiment(path).runs
    head = path.read_text().split("\nmodel:")[0]
    assert f"shiftbench run configs/experiments/{path.name}" in head
    assert "# Expect:" in head


def test_the_readme_names_every_experiment() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert all(path.name in readme for path in CONFIGS)
