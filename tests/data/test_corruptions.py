"""Corruptions are a function of image, name, severity and key; numbers by hand where the formula is short."""

from collections.abc import Callable

import numpy as np
import pytest

from suite.data import corruptions
from suite.data.corruptions import chosen_corruptions, corrupted, seed_of
from suite.errors import UserError
from suite.specs.corruption_table import COMMON, CORRUPTIONS, FAMILIES

FAST = [name for name in CORRUPTIONS if name != "glass_blur"]  # which is compiled for twelve seconds


def image(side: int = 40, seed: int = 0) -> corruptions.Pixels:
    return np.random.default_rng(seed).integers(40, 216, (side, side, 3), dtype=np.uint8)


def test_the_table_has_the_fifteen_of_mce_in_four_families() -> None:
    assert len(COMMON) == 15
    assert FAMILIES == ("noise", "blur", "weather", "digital")
    # As Hendrycks and Dietterich print them, rounded to whole percent.
    printed = [89, 89, 92, 82, 83, 79, 80, 87, 83, 82, 56, 85, 65, 72, 61]
    assert [round(CORRUPTIONS[name].alexnet_error_percent or 0) for name in COMMON] == printed


@pytest.mark.parametrize("name", FAST)
def test_the_same_key_gives_the_same_bytes_whatever_was_drawn_before(name: str) -> None:
    np.random.seed(1)  # noqa: NPY002 - the state that the library uses
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = corrupted(image(), name, 3, "a/1.jpg")
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.random.uniform(size=7)  # noqa: NPY002
    corrupted(image(seed=1), name, 5, "a/2.jpg")
    again = corrupted(image(), name, 3, "a/1.jpg")
    assert first.dtype == np.uint8
    assert first.shape == image().shape
    assert (first == again).all()
    assert (first != image()).any()


def test_keys_and_corruptions_have_random_numbers_of_their_own() -> None:
    one, other = (corrupted(image(), "gaussian_noise", 3, key) for key in ("1", "2"))
    assert (one != other).any()
    assert len({seed_of(name, key) for name in CORRUPTIONS for key in ("1", "2")}) == 2 * len(CORRUPTIONS)


def test_gaussian_noise_and_contrast_by_hand() -> None:
    x = image() / 255
    noise = np.random.RandomState(seed_of("gaussian_noise", "k")).normal(size=x.shape)
    for severity, scale in ((1, 0.08), (5, 0.38)):  # the severities share their noise
        expected = np.uint8(np.clip(x + scale * noise, 0, 1) * 255)
        assert (corrupted(image(), "gaussian_noise", severity, "k") == expected).all()
    mean = x.mean(axis=(0, 1), keepdims=True)
    expected = np.uint8(np.clip((x - mean) * 0.2 + mean, 0, 1) * 255)
    assert (corrupted(image(), "contrast", 3, "k") == expected).all()


def test_a_small_image_is_continued_at_its_edges_and_cut_back() -> None:
    small = image(28)
    padded = np.pad(small, ((2, 2), (2, 2), (0, 0)), mode="edge")
    assert (
        corrupted(small, "motion_blur", 2, "k") == corrupted(padded, "motion_blur", 2, "k")[2:-2, 2:-2]
    ).all()


@pytest.mark.parametrize("name", ["gaussian_noise", "brightness", "fog", "jpeg_compression"])
def test_a_grey_image_is_the_first_of_three_equal_channels(name: str) -> None:
    grey = image(36)[..., 0]
    found = corrupted(grey, name, 2, "k")
    assert found.shape == (36, 36)
    assert (found == corrupted(np.repeat(grey[..., None], 3, axis=2), name, 2, "k")[..., 0]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: corrupted(image(), "rain", 1, "k"),
            "corruption 'rain' is unknown; expected one of gaussian_noise",
        ),
        (lambda: corrupted(image(), "fog", 0, "k"), "severity of fog: expected 1 to 5, got 0"),
        (lambda: corrupted(image(), "fog", 6, "k"), "severity of fog: expected 1 to 5, got 6"),
        (lambda: corrupted(image()[..., 0], "saturate", 1, "k"), "'saturate' says nothing about grey images"),
        (lambda: chosen_corruptions(["spatter"], is_grey=True), "'spatter' says nothing about grey images"),
        (
            lambda: chosen_corruptions(["rain"], is_grey=False),
            "'rain' is unknown; expected common, all, noise",
        ),
    ],
)
def test_what_cannot_be_made_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_pixels_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def corrupt(x: corruptions.Pixels, severity: int, name: str) -> corruptions.Pixels:
            return np.uint8(x * np.array(np.nan))

    monkeypatch.setattr(corruptions, "_library", lambda: Broken)
    with pytest.raises(UserError, match=r"fog at severity 2 gives no finite pixels for image a/1\.jpg"):
        corrupted(image(), "fog", 2, "a/1.jpg")


def test_sets_and_families_leave_out_what_grey_images_lack() -> None:
    assert chosen_corruptions(["common"], is_grey=True) == COMMON
    assert chosen_corruptions(["all"], is_grey=False) == tuple(CORRUPTIONS)
    assert set(chosen_corruptions(["all"], is_grey=True)) == set(CORRUPTIONS) - {"spatter", "saturate"}
    assert chosen_corruptions(["fog", "noise"], is_grey=False) == (
        *("gaussian_noise", "shot_noise", "impulse_noise"),
        *("fog", "speckle_noise"),
    )


def test_the_table_is_the_librarys() -> None:
    import imagecorruptions

    assert set(CORRUPTIONS) == set(imagecorruptions.get_corruption_names("all"))
    assert list(COMMON) == imagecorruptions.get_corruption_names("common")
