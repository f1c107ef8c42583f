"""The callback in Lightning's own Trainer, with its own logger."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from suite.shift import probe

IMAGES = DataLoader(TensorDataset(torch.randn(16, 3, 4, 4), torch.randint(2, (16,))), batch_size=8)


def make_module() -> Any:
    import pytorch_lightning as lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            layers = [
                torch.nn.Conv2d(3, 4, 1),
                torch.nn.BatchNorm2d(4),
                torch.nn.Flatten(),
                torch.nn.Linear(64, 2),
            ]
            self.net = torch.nn.Sequential(*layers)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.net(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def test_the_shift_is_in_the_trainers_log(tmp_path: Path) -> None:
    import pytorch_lightning as lightning
    from pytorch_lightning.loggers import CSVLogger

    from shiftbench.lightning import ShiftCallback

    callback, module = ShiftCallback(2, network=lambda module: module.net), make_module()
    trainer = lightning.Trainer(
        max_epochs=2,
        callbacks=[callback],
        logger=CSVLogger(tmp_path, name="", version=""),
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, IMAGES, IMAGES)
    assert list(callback.profiles) == [2]
    expected = probe(module.net, IMAGES).mean("esm_sigma_scaled")
    assert trainer.callback_metrics["shift/esm_sigma_scaled"].item() == pytest.approx(expected, rel=1e-5)
    text = (tmp_path / "metrics.csv").read_text()
    assert "shift/esm_sigma_scaled" in text
    assert "shift/tid_mu" in text
    # Two loaders, before the first validation, with a callback that has been used.
    trainer = lightning.Trainer(
        max_epochs=1,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=2,
        callbacks=[callback := ShiftCallback(max_batches=1, network=lambda module: module.net)],
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        logger=False,
    )
    trainer.fit(make_module(), IMAGES, [IMAGES, IMAGES])
    assert list(callback.profiles[1]) == ["val_0", "val_1"]
    assert "shift/val_1/esm_mu_scaled" in trainer.callback_metrics
