"""The corruptions of ImageNet-C by name (Hendrycks and Dietterich, ICLR 2019), and the released shifts.

To add a corruption that the library `imagecorruptions` has, add an entry.
"""

from dataclasses import dataclass

SEVERITIES = (1, 2, 3, 4, 5)
ALEXNET_CLEAN_ERROR_PERCENT = 43.5


@dataclass(frozen=True)
class Corruption:
    """A corruption. `family`: as the paper groups them.

    `alexnet_error_percent`: AlexNet's top-1 error over the five severities, by which mCE weighs; None for the
    four corruptions that are for validation and not part of it. `needs_colour`: why it says nothing about
    grey images. `has_own_generator`: the library takes its seed as an argument.
    """

    family: str
    alexnet_error_percent: float | None
    needs_colour: str = ""
    has_own_generator: bool = False


# AlexNet's errors: https://github.com/hendrycks/robustness
CORRUPTIONS = {
    "gaussian_noise": Corruption("noise", 88.6428),
    "shot_noise": Corruption("noise", 89.4468),
    "impulse_noise": Corruption("noise", 92.2640, has_own_generator=True),
    "defocus_blur": Corruption("blur", 81.9880),
    "glass_blur": Corruption("blur", 82.6268, has_own_generator=True),
    "motion_blur": Corruption("blur", 78.5948),
    "zoom_blur": Corruption("blur", 79.8360),
    "snow": Corruption("weather", 86.6816),
    "frost": Corruption("weather", 82.6572),
    "fog": Corruption("weather", 81.9324),
    "brightness": Corruption("weather", 56.4592),
    "contrast": Corruption("digital", 85.3204),
    "elastic_transform": Corruption("digital", 64.6056),
    "pixelate": Corruption("digital", 71.7840),
    "jpeg_compression": Corruption("digital", 60.6500),
    "speckle_noise": Corruption("noise", None),
    "gaussian_blur": Corruption("blur", None),
    "spatter": Corruption("weather", None, needs_colour="it paints coloured drops"),
    "saturate": Corruption("digital", None, needs_colour="it changes the saturation of colours"),
}
FAMILIES = tuple(dict.fromkeys(one.family for one in CORRUPTIONS.values()))
COMMON = tuple(name for name, one in CORRUPTIONS.items() if one.alexnet_error_percent is not None)


@dataclass(frozen=True)
class ReleasedShift:
    """A released data set that differs from ImageNet's validation set, of so many classes."""

    meaning: str
    source: str
    num_classes: int


# Any other name is a folder of class folders, of any number of the network's classes.
RELEASED = {
    "imagenet-r": ReleasedShift("renditions: art, toys, embroidery", "Hendrycks et al. 2021", 200),
    "imagenet-a": ReleasedShift("natural images on which ResNet-50 errs", "Hendrycks et al. 2021", 200),
    "imagenet-v2": ReleasedShift("collected anew; its folders are class numbers", "Recht et al. 2019", 1000),
    "imagenet-sketch": ReleasedShift("sketches in black and white", "Wang et al. 2019", 1000),
    "imagenet-c": ReleasedShift(
        "corrupted copies, CORRUPTION/SEVERITY/CLASS; saved as JPEG once more than those that are made here",
        "Hendrycks and Dietterich 2019",
        1000,
    ),
}
