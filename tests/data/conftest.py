"""Real data sets to test on: Fashion-MNIST as JPEGs, and larger pictures of many sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suite.data.sources import default_root, prepare
from suite.experiment import BatchSpec, DataSpec, ModelSpec, RecipeSpec, Run, SystemSpec


def picture(seed: int, height: int, width: int) -> Image.Image:
    """Smooth blobs with fine grain on top: compresses about as a photograph does."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    grain = rng.normal(0, 12, (height, width, 3))
    pixels = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC)) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def fashion(prepared_data: None) -> Path:
    """The 7,000 images that the repository carries."""
    return prepare("fashion-mnist-7k", default_root())


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 11 validation pictures in 3 classes, wide and tall."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 40), ("val", 11)):
        for number in range(count):
            path = folder / split / f"class-{number % 3}" / f"{number:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            height, width = 90 + 23 * (number % 7), 100 + 31 * (number % 5)
            picture(number, height, width).save(path, quality=92)
    return folder


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    def make(
        folder: Path, num_classes: int, *, batch: tuple[int, int] = (8, 4), seed: int = 5, **data: Any
    ) -> Run:
        """`batch`: global and per GPU."""
        return Run(
            experiment="test",
            model=ModelSpec(arch="resnet18"),
            data=DataSpec(name="test", path=str(folder), num_classes=num_classes, **data),
            batch=BatchSpec(global_batch_size=batch[0], batch_size_per_gpu=batch[1]),
            recipe=RecipeSpec(),
            system=SystemSpec(data_threads=2),
            seed=seed,
        )

    return make
