"""The estimation shift in Hugging Face's Trainer.

from shiftbench.huggingface import ShiftCallback

trainer = transformers.Trainer(model, args, train_dataset=…, eval_dataset=…)
trainer.add_callback(ShiftCallback(trainer, every_epochs=5))
"""

import math
from typing import Any

from torch import nn
from transformers import TrainerCallback

from shiftbench.recorder import Batches, ShiftRecorder


class ShiftCallback(TrainerCallback):  # type: ignore[misc]
    """Logs the shift over the evaluation batches and TID by the trainer's own `log`, as `shift_…`.

    `ShiftRecorder` describes the arguments. A dictionary of evaluation sets is probed set by set, as
    `shift_NAME_…`. `profiles` has the whole profile of each probed epoch.
    """

    def __init__(self, trainer: Any, every_epochs: int = 1, **options: Any) -> None:
        self.trainer, self.recorder = trainer, ShiftRecorder(every_epochs, **options)
        self._hook: Any = None

    @property
    def profiles(self) -> dict[int, Any]:
        """The profile of each probed epoch, counted from 1."""
        return self.recorder.profiles

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        """Take the first training batch where it enters the network: callbacks see none."""
        self.recorder.restart()
        self._leave_network()

        def first(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if module.training:
                self._hook.remove()  # before the inference pass, which would come here, too
                self.recorder.begin(module, keywords or arguments)

        self._hook = model.register_forward_pre_hook(first, with_kwargs=True)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add TID of a batch that is accumulated."""
        self.recorder.end_pass()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add TID of the last batch of a step."""
        self.recorder.end_pass()

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        """Probe, and log."""
        epoch = math.ceil(round(state.epoch, 6))  # `max_steps` may end one early
        is_needed = self.recorder.is_due(epoch) and self.recorder.batches is None
        found = self.recorder.end_epoch(model, self._evaluation_batches() if is_needed else None, epoch)
        if found:
            self.trainer.log({f"shift_{name.replace('/', '_')}": value for name, value in found.items()})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave nothing at the network."""
        self._leave_network()

    def _leave_network(self) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _evaluation_batches(self) -> Batches | None:
        """Return the batches of the evaluation set, or of several by name; None without one."""
        sets = self.trainer.eval_dataset
        if isinstance(sets, dict):
            return {name: self.trainer.get_eval_dataloader(name) for name in sets}
        found: Batches | None = None if sets is None else self.trainer.get_eval_dataloader()
        return found
