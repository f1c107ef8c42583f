"""What the callbacks for other trainers share: a probe every few epochs, and TID in between."""

import itertools
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from suite.errors import UserError
from suite.metrics import PROBED, SHIFT_MU, SHIFT_SIGMA
from suite.shift import ShiftProfile, TidMeter, probe
from suite.shift.batches import images_of
from suite.shift.layers import batch_norm_layers

log = logging.getLogger("shiftbench")

# Batches as `probe` takes them, or several sets of them by name.
Batches = Iterable[Any] | Mapping[str, Iterable[Any]]


class ShiftRecorder:
    """Measures the estimation shift of a network while somebody else's loop trains it.

    Call `begin` before each training pass, `end_pass` behind it, and `end_epoch` behind each epoch.
    """

    def __init__(
        self,
        every_epochs: int = 1,
        *,
        batches: Batches | None = None,
        max_batches: int | None = None,
        norm_batch_size: int | None = None,
        tid: bool = True,
        per_layer: bool = False,
    ) -> None:
        """Probe every `every_epochs` epochs over `batches`, or the trainer's validation batches.

        Several sets, as a mapping by name, are probed one by one, and named in what is reported.
        `max_batches`: of each at most so many. `norm_batch_size`: samples behind one BN statistic in
        training; None: those of the first training batch of a rank. `tid`: measure the discrepancy between
        training and inference, too. `per_layer`: report every layer, and not the means over them alone.
        Raises UserError for `every_epochs` below 1.
        """
        if every_epochs < 1:
            raise UserError(f"ShiftCallback: every_epochs is {every_epochs}; expected a whole number ≥ 1")
        self.every_epochs, self.batches, self.max_batches = every_epochs, batches, max_batches
        self.norm_batch_size, self.with_tid, self.per_layer = norm_batch_size, tid, per_layer
        self.profiles: dict[int, Any] = {}
        """The profile of each probed epoch, counted from 1; of several sets a dictionary of them."""
        self._meter: TidMeter | None = None
        self._has_begun = self._lacks_bn = False

    def restart(self) -> None:
        """Forget the network of an earlier training. Its profiles are kept up to where this one begins."""
        self._meter = None
        self._has_begun = self._lacks_bn = False

    def begin(self, network: nn.Module, batch: Any) -> None:
        """Prepare for TID before the first training pass, by an inference pass over its batch."""
        if self._meter is not None or self._lacks_bn or not self.with_tid:
            return
        if not batch_norm_layers(network):
            log.warning("ShiftCallback: the network has no BN layer, so that there is no TID")
            self._lacks_bn = True
            return
        images = images_of(batch, "ShiftCallback")
        self._meter = TidMeter(network, images, norm_batch_size=self.norm_batch_size or len(images))

    def end_pass(self) -> None:
        """Add the training pass that has just run."""
        if self._meter is not None:
            self._meter.update()

    def is_due(self, epoch: int) -> bool:
        """Return whether the network is probed at the end of `epoch`, counted from 1."""
        return epoch % self.every_epochs == 0

    def end_epoch(self, network: nn.Module, batches: Batches | None, epoch: int) -> dict[str, float]:
        """Return what was measured at the end of `epoch`, counted from 1, by name; empty if nothing is due.

        `batches`: the trainer's validation batches. Raises UserError where there are none.
        """
        if not self._has_begun:
            self._has_begun = True
            self.profiles = {before: one for before, one in self.profiles.items() if before < epoch}
        found: dict[str, float] = {}
        if self._meter is not None:
            for name, values in zip(("tid_mu", "tid_sigma"), self._meter.pop_epoch_means(), strict=True):
                found |= self._named(name, dict(zip(self._meter.layers, values, strict=False)))
        if not self.is_due(epoch):
            return found
        batches = batches if self.batches is None else self.batches
        if batches is None:
            raise UserError("ShiftCallback: there are no validation batches; give some as batches=")
        if not isinstance(batches, Mapping):
            self.profiles[epoch] = profile = self._probed(network, batches)
            return found | self._values(profile)
        self.profiles[epoch] = by_set = {name: self._probed(network, some) for name, some in batches.items()}
        for name, profile in by_set.items():
            found |= {f"{name}/{metric}": value for metric, value in self._values(profile).items()}
        return found

    def _probed(self, network: nn.Module, batches: Iterable[Any]) -> ShiftProfile:
        return probe(network, itertools.islice(batches, self.max_batches))

    def _values(self, profile: ShiftProfile) -> dict[str, float]:
        """Return a profile's values by name."""
        layers, found = [layer.name for layer in profile.layers], dict[str, float]()
        for name in PROBED if self.per_layer else (SHIFT_MU, SHIFT_SIGMA):
            found |= self._named(name, dict(zip(layers, profile.values(name), strict=True)))
        return found

    def _named(self, name: str, by_layer: dict[str, float]) -> dict[str, float]:
        """Return the mean over the layers, and their own values if they are wanted."""
        finite = {layer: value for layer, value in by_layer.items() if math.isfinite(value)}
        if not finite:
            return {}
        mean = {name: math.fsum(finite.values()) / len(finite)}
        return mean | ({f"{name}/{layer}": v for layer, v in finite.items()} if self.per_layer else {})
