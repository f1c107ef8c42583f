"""The callback in Hugging Face's own Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.shift import probe


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(48, 2)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.norm(pixel_values).flatten(1))
        return (
            {"logits": logits}
            if labels is None
            else {"loss": F.cross_entropy(logits, labels), "logits": logits}
        )


class Images(torch.utils.data.Dataset[Any]):
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.images, self.labels = torch.randn(16, 3, 4, 4), torch.randint(2, (16,))

    def __len__(self) -> int:
        return 16

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[place], "labels": self.labels[place]}


def test_the_shift_is_in_the_trainers_log(tmp_path: Path) -> None:
    import transformers

    from shiftbench.huggingface import ShiftCallback

    model = Network()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=Images(), eval_dataset=Images())
    callback = ShiftCallback(trainer, 2)
    trainer.add_callback(callback)
    trainer.train()
    assert list(callback.profiles) == [2]
    logs = [entry for entry in trainer.state.log_history if "shift_tid_mu" in entry]
    assert len(logs) == 2
    expected = probe(model, trainer.get_eval_dataloader()).mean("esm_sigma_scaled")
    assert logs[-1]["shift_esm_sigma_scaled"] == pytest.approx(expected, rel=1e-5)
    assert not model._forward_pre_hooks
    # Again, with several sets, and steps that end within an epoch.
    trainer.eval_dataset = {"clean": Images(), "dark": Images()}
    trainer.args.max_steps = 1
    trainer.remove_callback(callback)
    trainer.add_callback(callback := ShiftCallback(trainer))
    trainer.train()
    assert {epoch: list(by_set) for epoch, by_set in callback.profiles.items()} == {1: ["clean", "dark"]}
    assert "shift_dark_esm_sigma_scaled" in trainer.state.log_history[-2]
