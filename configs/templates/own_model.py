"""The estimation shift of your own network. Written by `shiftbench init own-model`.

    python own_model.py                                     # the example below, on random images
    shiftbench probe --model own_model:build --checkpoint W.pt --data /path/to/images
    shiftbench diagnose --model own_model:build --checkpoint W.pt --data /path/to/images

The folder holds train/CLASS/*.jpg and val/CLASS/*.jpg. Checkpoints are state dicts, or dicts that hold one.
"""

import torch
import torchvision
from torch import nn

import shiftbench


def build(num_classes: int = 10) -> nn.Module:
    """Return the network. Replace this by your own: any module with batch norms."""
    return torchvision.models.resnet18(num_classes=num_classes)


def main() -> None:
    """Probe the network, then the same network with batch-free norms in its residual blocks."""
    torch.manual_seed(0)
    # Batches are pairs of images (N, C, H, W) and labels (N,): a DataLoader will do.
    batches = [(torch.randn(8, 3, 64, 64), torch.randint(10, (8,))) for _ in range(4)]
    profile = shiftbench.probe(build(), batches)
    print(profile.to_frame()[["layer", "esm_mu_scaled", "esm_sigma_scaled"]].to_string(index=False))

    # XBN keeps batch norm, and puts group norm at one position of each block. Train this one instead.
    blocked = shiftbench.convert(build(), shiftbench.XbnSpec(kind="xbn", position="p2", num_groups=32))
    shift = shiftbench.probe(blocked, batches).mean("esm_sigma_scaled")
    print(
        f"mean scaled ESM σ: {profile.mean('esm_sigma_scaled'):.3f} with BN, {shift:.3f} with XBN (untrained)"
    )


if __name__ == "__main__":
    main()
