"""A small fashion-scenes, written once."""

from pathlib import Path

import pytest

from suite.detection import scenes


@pytest.fixture(scope="session")
def small_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty scenes for training and eleven for validation, on plain canvases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "SCENES", {"train": 30, "val": 11})
        patch.setattr(scenes, "PHOTOGRAPHS", Path("/nowhere"))
        return scenes.fashion_scenes(tmp_path_factory.mktemp("small"))
