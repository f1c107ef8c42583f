"""Crop geometry against hand computation, a plain loop, and torchvision's own distribution."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from suite.data.crops import ATTEMPTS, WORDS_PER_IMAGE, crop_draws, geometry
from suite.data.plan import CROPS, random_words
from suite.experiment import DataSpec

DATA = DataSpec(name="synthetic", image_size=224)


def draws_of(count: int, data: DataSpec = DATA):  # type: ignore[no-untyped-def]
    return crop_draws(random_words(7, 0, CROPS, count * WORDS_PER_IMAGE).reshape(count, -1), data)


def attempts(*first: tuple[float, float, float, float]) -> np.ndarray:
    """Draws of one image: these attempts, then ones far too large."""
    rows = [*first, *[(9.0, 9.0, 0.0, 0.0)] * (ATTEMPTS - len(first))]
    return np.array(rows).T[None]


def test_a_window_by_hand() -> None:
    # 200 × 50 pixels: √ = 100. Width 0.7 is 70 > 50 and does not fit; the second is 40 wide, 60 high, and
    # leaves 141 × 11 places: row ⌊0.5 × 141⌋ = 70, column ⌊0.25 × 11⌋ = 2.
    crops = geometry(np.array([[200, 50]]), attempts((0.7, 0.3, 0.5, 0.5), (0.4, 0.6, 0.5, 0.25)), DATA)
    assert crops.window_start_B2.tolist() == [[70, 2]]
    assert crops.window_shape_B2.tolist() == [[60, 40]]
    assert crops.resized_B2.tolist() == [[224, 224]]
    assert crops.offset_B2.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("shape", "start", "size"),
    [
        ((100, 120), (0, 0), (100, 120)),  # within 3/4 … 4/3: all of it
        ((60, 200), (0, 60), (60, 80)),  # too wide: 60 × 4/3 = 80
        ((200, 60), (60, 0), (80, 60)),  # too tall: 60 / (3/4) = 80
    ],
)
def test_where_nothing_fits_the_centre_is_taken(
    shape: tuple[int, int], start: tuple[int, int], size: tuple[int, int]
) -> None:
    crops = geometry(np.array([shape]), attempts(), DATA)
    assert tuple(crops.window_start_B2[0]) == start
    assert tuple(crops.window_shape_B2[0]) == size


def test_central_crop_by_hand() -> None:
    # 300 × 451, shorter side to 256: 256 × 451 / 300 = 384.85 → 384; offsets 32 / 2 and 160 / 2.
    crops = geometry(np.array([[300, 451]]), None, DATA)
    assert crops.window_start_B2.tolist() == [[0, 0]]
    assert crops.window_shape_B2.tolist() == [[300, 451]]
    assert crops.resized_B2.tolist() == [[256, 384]]
    assert crops.offset_B2.tolist() == [[16, 80]]


def test_batch_agrees_with_a_loop_over_words() -> None:
    """The published algorithm, image by image and attempt by attempt, from the same random words."""
    words = random_words(7, 0, CROPS, 300 * WORDS_PER_IMAGE).reshape(300, -1)
    shapes = np.random.default_rng(0).integers(20, 700, (300, 2))
    shapes[::10] = 30, 600  # few attempts fit these
    crops = geometry(shapes, crop_draws(words, DATA).attempts_B4A, DATA)
    fallbacks = 0
    for i, (height, width) in enumerate(shapes.tolist()):
        uniform = [(int(word) >> 11) / 2**53 for word in words[i]]
        for k in range(ATTEMPTS):
            u_area, u_ratio, u_top, u_left = uniform[4 * k : 4 * k + 4]
            area = height * width * (0.08 + 0.92 * u_area)
            ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * u_ratio)
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                expected = [int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w]
                break
        else:
            fallbacks += 1
            h, w = min(height, round(width / (3 / 4))), min(width, round(height * 4 / 3))
            expected = [(height - h) // 2, (width - w) // 2, h, w]
        assert [*crops.window_start_B2[i], *crops.window_shape_B2[i]] == expected
    assert 0 < fallbacks < 300


def test_distribution_is_torchvisions() -> None:
    """Means of area share, log ratio and centre, within four standard errors of torchvision's own draws."""
    count, height, width = 6000, 300, 400
    crops = geometry(np.full((count, 2), [height, width]), draws_of(count).attempts_B4A, DATA)
    ours = np.concatenate([crops.window_start_B2, crops.window_shape_B2], axis=1)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    )

    def features(windows: np.ndarray) -> np.ndarray:
        top, left, h, w = windows.T.astype(float)
        return np.stack([h * w / (height * width), np.log(w / h), top + h / 2, left + w / 2, (h * w) ** 2])

    a, b = features(ours), features(theirs)
    error = np.sqrt((a.var(axis=1) + b.var(axis=1)) / count)
    assert (np.abs(a.mean(axis=1) - b.mean(axis=1)) < 4 * error).all()


def test_half_are_mirrored_and_none_on_request() -> None:
    assert 400 < draws_of(1000).mirror_B.sum() < 600
    assert draws_of(1000, DATA.model_copy(update={"flip": False})).mirror_B.sum() == 0
