"""How many images the synthetic data set is taken to have. No torch here: the launcher asks."""

from suite.experiment import DataSpec

# ImageNet's, when the experiment names no other number.
NUM_IMAGES = {"train": 1_281_167, "val": 50_000}


def synthetic_images(data: DataSpec, split: str) -> int:
    """As many as the experiment says, else as ImageNet has."""
    return (data.train_images if split == "train" else data.val_images) or NUM_IMAGES[split]
