"""The estimation shift in Lightning's Trainer.

from shiftbench.lightning import ShiftCallback

Trainer(callbacks=[ShiftCallback(every_epochs=5)]).fit(module, train_loader, val_loader)
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import nn

from shiftbench.recorder import Batches, ShiftRecorder

# Two packages have the same Trainer: the one that is imported already counts, else the one that is installed.
if "lightning" in sys.modules or ("pytorch_lightning" not in sys.modules and find_spec("lightning")):
    from lightning.pytorch import Callback
else:
    from pytorch_lightning import Callback


class ShiftCallback(Callback):  # type: ignore[misc]
    """Logs the shift over the validation batches and TID, to the trainer's loggers, as `shift/…`.

    `ShiftRecorder` describes the arguments. `network` takes the network out of the module; None: the module
    itself. Under several ranks each probes its share of the batches, and TID is that of the first. Several
    validation loaders are probed one by one, as `shift/NAME/…` with the key of each or `val_0`, ….
    `profiles` has the whole profile of each probed epoch.
    """

    def __init__(
        self, every_epochs: int = 1, *, network: Callable[[Any], nn.Module] | None = None, **options: Any
    ) -> None:
        self.recorder = ShiftRecorder(every_epochs, **options)
        self._network = network or (lambda module: module)

    @property
    def profiles(self) -> dict[int, Any]:
        """The profile of each probed epoch, counted from 1."""
        return self.recorder.profiles

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget the network of an earlier fit."""
        self.recorder.restart()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Find the layers, before the first batch."""
        self.recorder.begin(self._network(pl_module), batch)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add TID of the batch."""
        self.recorder.end_pass()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Probe, and log."""
        epoch = trainer.current_epoch + 1
        is_needed = self.recorder.is_due(epoch) and self.recorder.batches is None
        batches = _validation_batches(trainer) if is_needed else None
        found = self.recorder.end_epoch(self._network(pl_module), batches, epoch)
        pl_module.log_dict({f"shift/{name}": value for name, value in found.items()})


def _validation_batches(trainer: Any) -> Batches | None:
    """Return the trainer's validation loader, or several by name; None without one."""
    if trainer.val_dataloaders is None and trainer.enable_validation:
        # Without a sanity check the trainer makes them before its first validation, which may be later.
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    loaders: Any = trainer.val_dataloaders
    if isinstance(loaders, list | tuple):
        if len(loaders) < 2:
            return next(iter(loaders), None)
        return {f"val_{place}": loader for place, loader in enumerate(loaders)}
    found: Batches | None = loaders
    return found
