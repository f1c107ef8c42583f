"""A rank's measurements: written to the record on the first rank, and to the log."""

import logging
import math
from typing import Any

import torch

from suite.data.loader import BatchLoader
from suite.experiment import Run
from suite.metrics import PROBED, SHIFT_MU, SHIFT_SIGMA, Weights
from suite.paths import RANKS
from suite.record import Layer, RankTimes, Record, RecordWriter
from suite.record.writer import Split
from suite.shift import ShiftProfile, TidMeter
from suite.train.distributed import Ranks
from suite.train.loggers import Loggers
from suite.train.measure import OfClients, OnAverage, OnTrainingImages
from suite.train.task import Evaluated

log = logging.getLogger("shiftbench")


class MetricLogger:
    """Writes one run's measurements, each with its `epoch` (counted from 1) and optimizer `step`.

    `record` is None on every rank but the first; `accuracy` is the stem of the task's metric. Call each
    method on all ranks: some of them sum over ranks.
    """

    def __init__(self, ranks: Ranks, record: RecordWriter | None, accuracy: str = "top1") -> None:
        self.ranks, self.record, self.accuracy = ranks, record, accuracy
        self.loggers: Loggers | None = None
        self._known_bad: set[str] = set()
        self._known_layers: list[Layer] = []
        self._nodes: list[str] = []

    def begin(self, run: Run) -> None:
        """Open the copies of the measurements for other tools."""
        if run.system.loggers and self.record is not None:
            self.loggers = Loggers(run, self.record.paths.folder)

    def end(self, _: object, error: BaseException | None, __: object) -> None:
        """Close the copies of the measurements for other tools; a context's exit, with what ended the run."""
        if self.loggers is not None:
            self.loggers.close(error)

    @property
    def size_bytes(self) -> int:
        """The current size of the measurements' file; 0 on ranks that write none."""
        return self.record.measurements_size_bytes() if self.record is not None else 0

    @property
    def images_per_s(self) -> float | None:
        """The newest epoch's throughput; None before the first one, and on all ranks but the first."""
        return Record.read(self.record.paths.folder).last("images_per_s") if self.record is not None else None

    def measure(self, metric: str, value: float, split: Split, *, epoch: int, step: int) -> None:
        """Write one number, in the unit of the metric's registry entry."""
        if self.record is not None:
            self.record.measure(metric, value, epoch=epoch, step=step, split=split)
            if self.loggers is not None:
                self.loggers.log({f"{split}/{metric}": value}, epoch=epoch, step=step)

    def training(self, values: dict[str, float], *, epoch: int, step: int) -> None:
        """Write an epoch of training, by metric."""
        for name, value in values.items():
            self.measure(name, value, "train", epoch=epoch, step=step)

    def energy(self, j_per_step: float | None, global_batch_size: int, *, epoch: int, step: int) -> None:
        """Write the energy per image, summed over all ranks' GPUs; nothing unless each has a counter."""
        j = torch.tensor(math.nan if j_per_step is None else j_per_step, dtype=torch.float64)
        total_j = float(self.ranks.sum(j))
        if math.isfinite(total_j):
            self.measure("energy_j_per_image", total_j / global_batch_size, "train", epoch=epoch, step=step)

    def of_ranks(self, values: dict[str, float], images_per_step: int, *, epoch: int, step: int) -> None:
        """Write the ranks' step times, and the largest of their medians, from each rank's own `values`.

        Nothing for one rank, or unless each has timed steps.
        """
        if self.ranks.world_size == 1:
            return
        mean_ms = 1e3 * images_per_step / values.get("images_per_s", math.nan)
        shares = values.get("data_wait_share", math.nan), values.get("communication_share", 0.0)
        own = [values.get("step_time_p50_ms", math.nan), mean_ms, *(share * mean_ms for share in shares)]
        times_RT = self.ranks.gather(torch.tensor(own, dtype=torch.float64))
        if not self._nodes:
            self._nodes = self.ranks.nodes()
        if torch.isfinite(times_RT).all():
            medians, *parts = times_RT.T.tolist()
            self.measure("step_time_slowest_ms", max(medians), "train", epoch=epoch, step=step)
            if self.record is not None:
                self.record.keep_file(RANKS, RankTimes(epoch, step, self._nodes, *parts).text())

    def tid(self, meter: TidMeter, *, epoch: int, step: int) -> None:
        """Write each layer's TID over the epoch's passes. Only the first rank has a meter."""
        tid_mu, tid_sigma = meter.pop_epoch_means()
        if tid_mu:
            values = {"tid_mu": _rounded(tid_mu), "tid_sigma": _rounded(tid_sigma)}
            self._per_layer(_layers_of(meter), values, "train", epoch=epoch, step=step)

    def tid_of_steps(self, meter: TidMeter, *, epoch: int, step: int) -> None:
        """Write each layer's TID over the passes since the last time."""
        tid_mu, tid_sigma = map(_rounded, meter.pop_interval_means())
        if self.record is not None and tid_mu:
            self._layers(_layers_of(meter))
            self.record.tid(tid_mu, tid_sigma, epoch=epoch, step=step)

    def evaluation(self, result: Evaluated, *, epoch: int, step: int) -> None:
        """Write what was found on the validation set in inference mode, and the files that hold more."""
        for name, value in result.metrics.items():
            self.measure(name, value, "val", epoch=epoch, step=step)
        if self.record is not None:
            for name, text in result.files.items():
                self.record.keep_file(name, text)

    def shift(self, profile: ShiftProfile, precise_percent: float | None, *, epoch: int, step: int) -> None:
        """Write each layer's shift, and accuracy (%) with PreciseBN's statistics if that was evaluated."""
        if profile.layers:
            layers = [Layer(layer.name, layer.num_channels) for layer in profile.layers]
            values = {name: profile.values(name) for name in PROBED}
            self._per_layer(layers, values, "val", epoch=epoch, step=step)
        if precise_percent is not None:
            name = f"{self.accuracy}_precise_percent"
            self.measure(name, precise_percent, "val", epoch=epoch, step=step)

    def average(self, weights: Weights, found: OnAverage, *, epoch: int, step: int) -> None:
        """Write accuracy and shift of averaged weights, as far as they were measured."""
        parts = (
            ("", found.accuracy_percent, found.profile),
            ("_precise", found.accuracy_precise_percent, found.profile_precise),
        )
        for how, percent, profile in parts:
            if percent is not None:
                name = f"{self.accuracy}_{weights}{how}_percent"
                self.measure(name, percent, "val", epoch=epoch, step=step)
            if profile is not None and profile.layers:
                layers = [Layer(layer.name, layer.num_channels) for layer in profile.layers]
                values = {f"{n}_{weights}{how}": profile.values(n) for n in (SHIFT_MU, SHIFT_SIGMA)}
                self._per_layer(layers, values, "val", epoch=epoch, step=step)

    def clients(self, found: OfClients, *, epoch: int, step: int) -> None:
        """Write the means over federated clients."""
        if found.top1_percent is not None:
            self.measure("top1_clients_percent", found.top1_percent, "val", epoch=epoch, step=step)
        if found.layers:
            self._per_layer(found.layers, found.shift, "val", epoch=epoch, step=step)

    def training_images(self, found: OnTrainingImages, *, epoch: int, step: int) -> None:
        """Write accuracy and shift over the training images, in inference mode."""
        for name in ("top1_inference_percent", "top1_bias_corrected_percent"):
            self.measure(name, getattr(found, name), "train", epoch=epoch, step=step)
        if found.profile is not None and found.profile.layers:
            layers = [Layer(layer.name, layer.num_channels) for layer in found.profile.layers]
            values = {f"{name}_train": found.profile.values(name) for name in (SHIFT_MU, SHIFT_SIGMA)}
            self._per_layer(layers, values, "train", epoch=epoch, step=step)

    def bad_images(self, loader: BatchLoader[Any], split: Split, *, epoch: int, step: int) -> None:
        """Write how many files no loader of any rank could read so far, and log each of them once."""
        bad_images = self.ranks.union(loader.bad_images)
        for path in bad_images.keys() - self._known_bad:
            log.warning("bad image, left out or replaced: %s: %s", path, bad_images[path])
        self._known_bad |= bad_images.keys()
        self.measure("bad_images", len(bad_images), split, epoch=epoch, step=step)

    def progress(self, **details: Any) -> None:
        """Add details to the status of the running run."""
        if self.record is not None:
            self.record.progress(**details)

    def _per_layer(
        self, layers: list[Layer], values: dict[str, list[float]], split: Split, *, epoch: int, step: int
    ) -> None:
        self._layers(layers)
        if self.record is not None:
            for name, numbers in values.items():
                self.record.measure(name, numbers, epoch=epoch, step=step, split=split)
                if self.loggers is not None:
                    by_layer = zip((layer.name for layer in layers), numbers, strict=True)
                    means = {f"{split}/{name}": sum(numbers) / len(numbers)}
                    named = {f"{split}/{name}/{layer}": number for layer, number in by_layer}
                    self.loggers.log(means | named, epoch=epoch, step=step)

    def _layers(self, layers: list[Layer]) -> None:
        # TID and the probe list the same layers in the same order: the first of them writes the list.
        if self.record is not None and layers != self._known_layers:
            self.record.layers(layers)
            self._known_layers = layers


def _layers_of(meter: TidMeter) -> list[Layer]:
    return [Layer(name, layer.num_features) for name, layer in meter.layers.items()]


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]  # float32 has no more digits
