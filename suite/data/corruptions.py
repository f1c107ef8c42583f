"""Makes the corruptions of `suite.specs.corruption_table`. No torch.

The pixels come from `imagecorruptions` (the package imagecorruptions-imaug), which follows the code of
Hendrycks and Dietterich (ICLR 2019) with the constants for images of 224 pixels. A corrupted image is a
function of the image, the corruption, the severity and the image's `key`: the same for every network, rank,
batch and loader. All severities of one image share their random numbers.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.errors import UserError
from suite.large_imports import keeping_library_path
from suite.specs.corruption_table import COMMON, CORRUPTIONS, FAMILIES, SEVERITIES

Pixels = NDArray[np.uint8]
LEAST_SIDE = 32  # of the library; smaller images are continued at their edges, and cut back afterwards


def check_corruption(name: str, severity: int, *, is_grey: bool = False) -> None:
    """Raise UserError for an unknown corruption or severity, and for one that needs colour on grey images."""
    if name not in CORRUPTIONS:
        raise UserError(f"corruption {name!r} is unknown; expected one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UserError(f"severity of {name}: expected 1 to 5, got {severity}")
    if is_grey and (reason := CORRUPTIONS[name].needs_colour):
        raise UserError(f"corruption {name!r} says nothing about grey images: {reason}; leave it out")


def check_possible(name: str, *, is_grey: bool) -> None:
    """Raise UserError, before any image is read, for a corruption that cannot be made of such images."""
    check_corruption(name, SEVERITIES[0], is_grey=is_grey)
    if importlib.util.find_spec("imagecorruptions") is None:
        _library()


def corrupted(image: Pixels, name: str, severity: int, key: str) -> Pixels:
    """Return a corrupted copy of an image.

    `image`: (H, W, 3), or (H, W) if it is grey, which gives (H, W). `key` names the image within its data
    set. A grey image is corrupted as three equal channels, of which the first one is returned. Raises
    UserError as `check_corruption` does, without the library, and when the result is not finite.
    """
    check_corruption(name, severity, is_grey=image.ndim == 2)
    library = _library()
    seed = seed_of(name, key)
    options = {"seed": seed} if CORRUPTIONS[name].has_own_generator else {}
    height, width = image.shape[:2]
    padded_HW3 = _padded(np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image)
    # The library draws from numpy's global generator.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        # The library casts to whole numbers, where a NaN would become some colour.
        with np.errstate(invalid="raise"):
            result_HW3: Pixels = library.corrupt(padded_HW3, severity, name, **options)
    except FloatingPointError:
        raise UserError(f"{name} at severity {severity} gives no finite pixels for image {key}") from None
    finally:
        np.random.set_state(state)  # noqa: NPY002
    top, left = (result_HW3.shape[0] - height) // 2, (result_HW3.shape[1] - width) // 2
    result_HW3 = result_HW3[top : top + height, left : left + width]
    return np.ascontiguousarray(result_HW3[..., 0] if image.ndim == 2 else result_HW3)


def seed_of(name: str, key: str) -> int:
    """Return the seed of one image's corruption, below 2³²: a hash of both names."""
    return int.from_bytes(hashlib.sha256(f"{name}/{key}".encode()).digest()[:4], "big")


def chosen_corruptions(names: Sequence[str], *, is_grey: bool) -> tuple[str, ...]:
    """Return the corruptions that a list names: names, families, `common` or `all`.

    A family and a set leave out what says nothing about grey images. Raises UserError for an unknown name.
    """
    found: dict[str, None] = {}
    for name in names:
        if name in CORRUPTIONS:
            check_corruption(name, 1, is_grey=is_grey)
            found[name] = None
        elif name in {"common", "all", *FAMILIES}:
            found |= {
                each: None
                for each, one in CORRUPTIONS.items()
                if (name in ("all", one.family) or (name == "common" and each in COMMON))
                and not (is_grey and one.needs_colour)
            }
        else:
            sets = ", ".join(("common", "all", *FAMILIES))
            raise UserError(f"corruption {name!r} is unknown; expected {sets}, or {', '.join(CORRUPTIONS)}")
    return tuple(name for name in CORRUPTIONS if name in found)


def _padded(image_HW3: Pixels) -> Pixels:
    """Return the image continued at its edges to the least side that the library takes."""
    widths = [max(0, LEAST_SIDE - side) for side in image_HW3.shape[:2]]
    if not any(widths):
        return image_HW3
    return np.pad(image_HW3, [*((width // 2, width - width // 2) for width in widths), (0, 0)], mode="edge")


@cache
def _library() -> Any:
    try:
        with keeping_library_path():
            import imagecorruptions
    except ImportError as error:
        raise UserError(
            f"corruptions need imagecorruptions-imaug ({error}): install the extra `robust`; without libGL, "
            "opencv-python-headless in place of opencv-python"
        ) from None
    return imagecorruptions
