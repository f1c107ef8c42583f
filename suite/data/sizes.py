"""The nominal number of images of the synthetic data set. No torch here, since the launcher uses it."""

from suite.experiment import DataSpec

# ImageNet's, if the experiment names no other number.
NUM_IMAGES = {"train": 1_281_167, "val": 50_000}


def synthetic_images(data: DataSpec, split: str) -> int:
    """Return the number of images of a split: the experiment's, else ImageNet's."""
    return {"train": data.train_images, "val": data.val_images}[split] or NUM_IMAGES[split]
