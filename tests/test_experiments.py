"""The experiments that the repository ships are valid, and say what a user must know."""

from pathlib import Path

import pytest

from suite.config import load_experiment

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs" / "experiments").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_experiment_is_valid_and_opens_with_its_command(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IMAGENET", "COCO", "BACKBONES"):
        monkeypatch.setenv(name, f"/data/{name.lower()}")
    assert load_experiment(path).runs
    head = path.read_text().split("\nmodel:")[0]
    file = path.relative_to(ROOT)
    assert f"shiftbench run {file}" in head or f"shiftbench submit {file}" in head
    assert "# Expect:" in head


def test_the_docs_name_every_experiment() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text()
    assert all(path.name in page for path in CONFIGS)


# Recorded before mlp20, the memory loader and `global_batch_size: all` came: the first and last run of each.
KNOWN_RUNS = {
    "former-demo": ("1874f80851d0", "21d0552bddd0"),  # as demo.yaml was; see tests/golden
    "throughput": ("9837052edcae", "2d952618ff61"),
    "imagenet-resnet50": ("665beb7f1adf", "95174cd5e124"),
    "imagenet-small-batch": ("ff8fa6db3589", "d0782d82afed"),
}


@pytest.mark.parametrize("name", KNOWN_RUNS)
def test_finished_runs_of_shipped_experiments_are_still_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    folder = ROOT / "tests" / "golden" if name == "former-demo" else ROOT / "configs" / "experiments"
    runs = load_experiment(folder / f"{name}.yaml").runs
    assert (runs[0].run_id, runs[-1].run_id) == KNOWN_RUNS[name]
