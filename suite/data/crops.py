"""Crops, resizes and mirrors of a batch, from draws and image sizes. Numpy only.

Shape suffixes: B images, A attempts. The random window is torchvision's RandomResizedCrop: ten attempts
at an area share and a log-uniform aspect ratio; the first that fits the image wins, else the largest
central window within the ratio's bounds. Draws do not depend on the image's size, so that a plan needs no
files: their widths and heights are in units of √(image height × image width).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite.experiment import DataSpec

ATTEMPTS = 10
# Philox makes four words at a time: 11 blocks hold 10 attempts × 4 draws and the mirror's coin.
BLOCKS_PER_IMAGE = 11
WORDS_PER_IMAGE = 4 * BLOCKS_PER_IMAGE
Int32s = NDArray[np.int32]


@dataclass(frozen=True)
class CropDraws:
    """The random part of the crops of B images.

    `attempts_B4A`: width and height in units of √(height × width), then the top and left edge as shares of
    the room that the window leaves. `mirror_B`: 0 or 1.
    """

    attempts_B4A: NDArray[np.float64]
    mirror_B: Int32s

    def __getitem__(self, images: slice) -> "CropDraws":
        return CropDraws(self.attempts_B4A[images], self.mirror_B[images])


@dataclass(frozen=True)
class Geometry:
    """How B images are cropped: decode a window, resize it, keep a square of `image_size` at an offset.

    All in pixels, rows before columns. The offset is zero for random crops.
    """

    window_start_B2: Int32s
    window_shape_B2: Int32s
    resized_B2: Int32s
    offset_B2: Int32s


def crop_draws(words_BW: NDArray[np.uint64], data: DataSpec) -> CropDraws:
    """Return the draws of 44 random words for each image."""
    uniform_BW = (words_BW >> np.uint64(11)) * 2.0**-53
    share_BA, aspect_BA, top_BA, left_BA = (
        uniform_BW[:, : 4 * ATTEMPTS].reshape(-1, ATTEMPTS, 4).transpose(2, 0, 1)
    )
    smallest, largest = data.crop_area
    area_BA = smallest + (largest - smallest) * share_BA
    low, high = np.log(data.crop_ratio)
    ratio_BA = np.exp(low + (high - low) * aspect_BA)
    width_BA, height_BA = np.sqrt(area_BA * ratio_BA), np.sqrt(area_BA / ratio_BA)
    mirror_B = (uniform_BW[:, 4 * ATTEMPTS] < 0.5) & data.flip
    return CropDraws(np.stack([width_BA, height_BA, top_BA, left_BA], axis=1), mirror_B.astype(np.int32))


def geometry(shapes_B2: Int32s, attempts_B4A: NDArray[np.float64] | None, data: DataSpec) -> Geometry:
    """Return where the crops lie in images of these heights and widths; central without attempts."""
    if attempts_B4A is None:
        return _central(shapes_B2, data)
    start_B2, shape_B2 = _random_window(shapes_B2, attempts_B4A, data.crop_ratio)
    return Geometry(start_B2, shape_B2, np.full_like(start_B2, data.image_size), np.zeros_like(start_B2))


def _random_window(
    shapes_B2: Int32s, attempts_B4A: NDArray[np.float64], ratio: tuple[float, float]
) -> tuple[Int32s, Int32s]:
    height_B, width_B = shapes_B2.astype(np.float64).T
    sizes_B2A = np.floor(attempts_B4A[:, :2] * np.sqrt(height_B * width_B)[:, None, None] + 0.5)
    room_B2A = np.stack([width_B, height_B], axis=1)[:, :, None] - sizes_B2A
    fits_BA = ((sizes_B2A >= 1) & (room_B2A >= 0)).all(axis=1)
    first_B11 = fits_BA.argmax(axis=1)[:, None, None]
    w_B, h_B = np.take_along_axis(sizes_B2A, first_B11, axis=2)[:, :, 0].T
    top_B, left_B = np.take_along_axis(attempts_B4A[:, 2:], first_B11, axis=2)[:, :, 0].T
    start_B2 = np.stack([top_B * (height_B - h_B + 1), left_B * (width_B - w_B + 1)], axis=1)
    shape_B2 = np.stack([h_B, w_B], axis=1)
    for image in np.flatnonzero(~fits_BA.any(axis=1)):
        height, width = shapes_B2[image]
        h = min(height, math.floor(width / ratio[0] + 0.5))
        w = min(width, math.floor(height * ratio[1] + 0.5))
        shape_B2[image] = h, w
        start_B2[image] = (height - h) // 2, (width - w) // 2
    return start_B2.astype(np.int32), shape_B2.astype(np.int32)


def _central(shapes_B2: Int32s, data: DataSpec) -> Geometry:
    assert data.eval_resize is not None
    resized_B2 = data.eval_resize * shapes_B2.astype(np.int64) // shapes_B2.min(axis=1, keepdims=True)
    offset_B2 = ((resized_B2 - data.image_size) // 2).astype(np.int32)
    return Geometry(np.zeros_like(shapes_B2), shapes_B2, resized_B2.astype(np.int32), offset_B2)
