"""What a rank tells of its training: into the record on the first rank, into the log on all."""

import logging
import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from suite.data import Loader
from suite.metrics import PROBED
from suite.record import Layer, Record, RecordWriter
from suite.shift import ShiftProfile, TidMeter
from suite.train.checkpoint import CheckpointStore
from suite.train.distributed import Ranks
from suite.train.evaluate import Evaluation

log = logging.getLogger("shiftbench")


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]  # all the digits that float32 has


class Logbook:
    """Measurements of one run, each at the epoch and step that were told last by `turn_to`.

    `record` is None on every rank but the first; what sums over ranks is to be called on all of them.
    """

    def __init__(self, ranks: Ranks, record: RecordWriter | None) -> None:
        self.ranks, self.record = ranks, record
        self.epoch = self.step = 0
        self.known_bad: set[str] = set()
        self._known_layers: list[Layer] = []

    def turn_to(self, epoch: int, step: int) -> None:
        """Epochs begun and optimizer steps done when what follows was measured."""
        self.epoch, self.step = epoch, step

    @property
    def size_bytes(self) -> int:
        """How long the measurements are now; 0 on ranks that write none."""
        return self.record.measurements_size_bytes() if self.record is not None else 0

    @property
    def images_per_s(self) -> float | None:
        """As measured last over an epoch, None before; on the first rank."""
        return Record.read(self.record.paths.folder).last("images_per_s") if self.record is not None else None

    def measure(self, metric: str, value: float, split: Any) -> None:
        """Note one number, in the unit of the metric's registry entry."""
        if self.record is not None:
            self.record.measure(metric, value, epoch=self.epoch, step=self.step, split=split)

    def training(self, sums_4: Tensor, learning_rate: float, summary: dict[str, float]) -> None:
        """An epoch of training: this rank's `batch_sums` over it, and the meter's summary. On all ranks."""
        loss, top1, _, images = self.ranks.sum(sums_4.clone()).tolist()
        values = {"loss": loss / images, "top1_percent": 100 * top1 / images, "learning_rate": learning_rate}
        for name, value in {**values, **summary}.items():
            self.measure(name, value, "train")

    def energy(self, j_per_step: float | None, global_batch_size: int) -> None:
        """What this rank's GPU took in an epoch of training. On all ranks; noted where each has a counter."""
        j = torch.tensor(math.nan if j_per_step is None else j_per_step, dtype=torch.float64)
        total_j = float(self.ranks.sum(j))
        if math.isfinite(total_j):
            self.measure("energy_j_per_image", total_j / global_batch_size, "train")

    def tid(self, meter: TidMeter) -> None:
        """TID of each layer over the epoch's passes. On the first rank, whose estimates are the run's."""
        tid_mu, tid_sigma = map(_rounded, meter.take_means())
        if self.record is not None and tid_mu:
            self._layers([Layer(name, layer.num_features) for name, layer in meter.layers.items()])
            for name, values in (("tid_mu", tid_mu), ("tid_sigma", tid_sigma)):
                self.record.measure(name, values, epoch=self.epoch, step=self.step, split="train")

    def tid_of_steps(self, meter: TidMeter) -> None:
        """TID of each layer over the passes since the last time. On the first rank."""
        tid_mu, tid_sigma = map(_rounded, meter.newest_means())
        if self.record is not None and tid_mu:
            self._layers([Layer(name, layer.num_features) for name, layer in meter.layers.items()])
            self.record.tid(tid_mu, tid_sigma, epoch=self.epoch, step=self.step)

    def evaluation(self, result: Evaluation) -> None:
        """Of the validation set, in inference mode."""
        for name, value in asdict(result).items():
            self.measure(name, value, "val")

    def best(self, top1_percent: float, model_state: dict[str, Tensor] | None) -> None:
        """Say how good the model is now; `model_state` where no epoch before was as good: it is kept."""
        if self.record is None:
            return
        if model_state is not None:
            CheckpointStore(self.record.paths).save_best({"model": model_state, "epoch": self.epoch})
        self.record.status("running", evaluated_epoch=self.epoch, top1_percent=top1_percent)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Write `state` as this step's checkpoint, and say so and how long it took."""
        if self.record is not None:
            start = time.monotonic()
            CheckpointStore(self.record.paths).save(self.step, state)
            checkpoint_s = time.monotonic() - start
            self.record.status("running", epoch=self.epoch, step=self.step, checkpoint_s=checkpoint_s)

    def shift(self, profile: ShiftProfile, top1_precise_percent: float | None) -> None:
        """ESM of each layer; and top-1 (%) with exact statistics, where that was evaluated."""
        if self.record is not None and profile.layers:
            self._layers([Layer(layer.name, layer.num_channels) for layer in profile.layers])
            for name in PROBED:
                self.record.measure(name, profile.values(name), epoch=self.epoch, step=self.step, split="val")
        if top1_precise_percent is not None:
            self.measure("top1_precise_percent", top1_precise_percent, "val")

    def _layers(self, layers: list[Layer]) -> None:
        # TID and the probe list the same layers in the same order: whichever comes first says so.
        if self.record is not None and layers != self._known_layers:
            self.record.layers(layers)
            self._known_layers = layers

    def bad_images(self, loader: Loader, split: str) -> None:
        """How many files no loader could read so far, and which, once each. On all ranks."""
        bad_images = self.ranks.union(loader.bad_images)
        for path in bad_images.keys() - self.known_bad:
            log.warning("bad image, left out or replaced: %s: %s", path, bad_images[path])
        self.known_bad |= bad_images.keys()
        self.measure("bad_images", len(bad_images), split)
