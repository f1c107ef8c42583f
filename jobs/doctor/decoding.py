"""Reads a photograph by the loader that trains, and compares it with another decoder."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NUM_FILES, SIDE = 4, 96
# Grey levels of 255, mean over the pixels: resizes differ by less than one, upsamplings of colour by more.
TOLERANCE = 1.5


def check_decoding(device: "torch.device") -> None:
    """Load a batch as training does, with DALI on a device, and compare its images with torchvision's.

    Raises ValueError if they differ, or any error of DALI's.
    """
    import torch

    from suite.config import expand
    from suite.data import train_loader
    from suite.data.index import scan
    from suite.data.loader import STD
    from suite.data.plan import TrainPlan, TrainShare
    from suite.data.vision import PlannedBatches

    with tempfile.TemporaryDirectory(prefix="shiftbench-doctor-") as place:
        folder = Path(place)
        for number in range(NUM_FILES):
            path = folder / "train" / f"class-{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_photograph(path, number)
        content = {
            "model": {"arch": "resnet18"},
            "data": {"name": "photographs", "path": place, "num_classes": 2, "image_size": SIDE},
            "batch": {"global_batch_size": NUM_FILES},
            "recipe": {},
        }
        run = expand(content, "doctor").runs[0]
        share = TrainShare(TrainPlan(scan(folder, "train"), run), NUM_FILES)
        (expected, _), bad = PlannedBatches(share, run.data)[0]  # type: ignore[misc]
        loader = train_loader(run, start_step=0, rank=0, world_size=1, device=device)
        try:
            found = next(iter(loader)).images_NCHW.cpu()
        finally:
            loader.close()
    for reason in (bad | loader.bad_images).values():
        raise ValueError(reason)
    std_C11 = torch.tensor(STD).view(-1, 1, 1)
    levels = float(((found - expected) * std_C11 * 255).abs().mean())
    if not levels <= TOLERANCE:
        raise ValueError(f"a photograph's pixels are {levels:.1f} grey levels of 255 from torchvision's")


def write_photograph(path: Path, seed: int) -> None:
    """Write a JPEG whose colours have half the resolution of its brightness (4:2:0), as cameras do.

    Patches of saturated colours have edges, at which decoders that upsample colour differently differ.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (45, 60, 3), dtype=np.uint8))
    pixels = np.asarray(patches.resize((420, 315), Image.Resampling.NEAREST)) + rng.normal(
        0, 4, (315, 420, 1)
    )
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=92, subsampling="4:2:0")
