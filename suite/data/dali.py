"""The loader on NVIDIA DALI, for CPU and GPU. Order, crops and mirrors come from the plan.

A pass that ends leaves its pipeline to the next one, with threads and buffers. A file that cannot be decoded
ends a pipeline. The loader then searches the batches in flight for bad files and continues at the same batch
with a new one.
"""

import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from suite.data.auto import no_nvidia_gpu
from suite.data.crops import geometry
from suite.data.dali_graph import Machine, Source, build_pipeline, normalised
from suite.data.index import ImageFiles, ImageIndex
from suite.data.loader import BROKEN_JPEG, Batch, decoding_fault, good_image, to_device
from suite.data.plan import Samples, Share
from suite.data.read_ahead import PackReader, when_read
from suite.data.vision import decode
from suite.errors import UserError
from suite.experiment import DataSpec
from suite.specs.dali import DaliSpec

# What the source gives a pipeline for a batch: names, and what else its graph takes.
Inputs = tuple[Any, ...]
IndexT = TypeVar("IndexT", bound=ImageFiles)
BatchT = TypeVar("BatchT")


class _Feed:
    """The source of a pipeline: the inputs of one pass after another."""

    def __init__(self, *inputs: Inputs) -> None:
        self.inputs = iter(inputs)

    def __call__(self) -> Inputs:
        return next(self.inputs)


class PipelineLoader(ABC, Generic[IndexT, BatchT]):
    """The batches of `share`, from a pipeline that takes them from the plan. See `BatchLoader`.

    `device` is the rank's own CUDA device, or the CPU. Iterating raises RuntimeError, with DALI's
    message, for a failure that no file explains: DALI decodes each file alone, or none of those in flight
    although torchvision does.
    """

    def __init__(
        self, share: Share[IndexT], *, num_threads: int, settings: DaliSpec, device: torch.device
    ) -> None:
        if why := no_nvidia_gpu(device):
            raise UserError(f"data.loader: dali is not possible here: {why}; set it to auto or torchvision")
        self.bad_images: dict[str, str] = {}
        self._bad: dict[int, str] = {}
        self._share = share
        self._device = device
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="resize")
        self._machine = Machine(device, settings, num_threads, self._threads)
        self._rested: tuple[_Feed, Any] | None = None
        """The pipeline of a pass that has ended."""

    @abstractmethod
    def _pipeline(self, source: Source, images_per_batch: int, prefetched_batches: int | None = None) -> Any:
        """Return a pipeline that ends with its source; its first output are the images."""

    @abstractmethod
    def _input(self, samples: Samples) -> Inputs:
        """Return what the source gives the pipeline for a batch."""

    @abstractmethod
    def _batch(self, images: Any, samples: Samples) -> BatchT:
        """Return the batch of a pipeline's images."""

    def _decode(self, image: int) -> Tensor | str:
        """Return an image as torchvision decodes it, or why it cannot."""
        return decode(self._share.index, image)

    def _check(self, outputs: Sequence[Any], samples: Samples) -> None:
        """Raise RuntimeError for outputs that are not those of the samples."""

    def __iter__(self) -> Iterator[BatchT]:
        number = found_good = 0
        # Out of reach of another pass that begins before this one has ended.
        rested, self._rested = self._rested, None
        while True:
            # Batches that the pipeline has taken and not yet returned.
            in_flight: deque[tuple[int, Samples]] = deque()
            feed, pipeline = rested or self._fed_pipeline()
            feed.inputs = self._ready(self._inputs(number, in_flight))
            try:
                while True:
                    outputs = pipeline.run()
                    self._check(outputs, in_flight[0][1])
                    number, samples = in_flight.popleft()
                    number += 1
                    found_good += len(samples)
                    yield self._batch(outputs[0], samples)
            except StopIteration:
                break
            except RuntimeError as error:
                # The pipeline and its buffers go before others are built: the error's frames hold them, too.
                rested = outputs = None
                del pipeline
                traceback.clear_frames(error.__traceback__)
                self._name_bad([samples for _, samples in in_flight], error)
        pipeline.reset()
        self._rested = feed, pipeline
        if self._share.num_batches and not found_good:
            good_image(self._share.index, 0, lambda image: self._fault(Samples(np.array([image]), None)))

    def close(self) -> None:
        self._rested = None
        self._threads.shutdown(cancel_futures=True)

    def _fed_pipeline(self) -> tuple[_Feed, Any]:
        feed = _Feed()
        return feed, self._pipeline(feed, self._share.images_per_batch)

    def _own(self, images: Tensor, copy: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return DALI's images, or what `copy` makes of them, as a tensor that nobody else changes."""
        # DALI keeps a buffer as long as a tensor refers to it, which is enough on a CPU. On a GPU the tensor
        # may be freed while queued kernels still read it, so the batch is copied, on a separate stream so
        # that only the copy is waited for.
        if self._copy_stream is None:
            return images if copy is None else copy(images)
        with torch.cuda.stream(self._copy_stream):
            own = images.clone() if copy is None else copy(images)
        self._copy_stream.synchronize()
        own.record_stream(torch.cuda.current_stream(self._device))
        return own

    # ------------------------------------------------------------ inputs

    def _inputs(self, number: int, in_flight: deque[tuple[int, Samples]]) -> Iterator[Inputs]:
        """Yield the batches from `number` on in the pipeline's form, and add each to `in_flight`."""
        while self._share.num_batches is None or number < self._share.num_batches:
            samples = self._without_bad(self._share.batch(number))
            if len(samples):
                in_flight.append((number, samples))
                yield self._input(samples)
            number += 1

    def _ready(self, inputs: Iterator[Inputs]) -> Iterator[Inputs]:
        """Return the inputs as the pipeline takes them."""
        return inputs

    def _names(self, samples: Samples) -> list[Any]:
        return [np.frombuffer(self._share.index.path_bytes(i), np.uint8) for i in samples.images_B]

    def _without_bad(self, samples: Samples) -> Samples:
        suspects = [j for j, image in enumerate(samples.images_B) if int(image) in self._bad]
        if not suspects:
            return samples
        if samples.crops is None:
            return Samples(np.delete(samples.images_B, suspects), None)
        images_B = samples.images_B.copy()
        for j in suspects:
            fault = partial(self._suspect_fault, samples[j : j + 1])
            images_B[j] = good_image(self._share.index, int(images_B[j]), fault)
        return Samples(images_B, samples.crops)

    # ------------------------------------------------------------ bad files

    def _suspect_fault(self, sample: Samples, image: int) -> str | None:
        reason = self._bad.get(image)
        # A broken JPEG may still hold this window, and a loader that has not met it yet would use it: trying
        # again makes a batch independent of what was met before.
        if reason is None or not reason.startswith(BROKEN_JPEG):
            return reason
        return self._fault(Samples(np.array([image]), sample.crops))

    def _complaint(self, samples: Samples) -> str | None:
        """Return DALI's error message for these samples as one batch, or None."""
        try:
            feed = _Feed(*self._ready(iter([self._input(samples)])))
            pipeline = self._pipeline(feed, len(samples), prefetched_batches=1)
            self._check(pipeline.run(), samples)
        except RuntimeError as error:
            # Its text only: the error would keep the pipeline alive, and a worker forked later would crash
            # when it destroys that.
            return str(error)
        return None

    def _fault(self, samples: Samples) -> str | None:
        """Return why these samples cannot be decoded as one batch, or None."""
        complaint = self._complaint(samples)
        first = int(samples.images_B[0])
        return None if complaint is None else self._reason(first, complaint)

    def _reason(self, image: int, complaint: str) -> str:
        """Return in one line why an image is bad."""
        return decoding_fault(self._share.index, image, complaint)

    def _name_bad(self, in_flight: list[Samples], error: RuntimeError) -> None:
        """Find the bad files behind DALI's error. Raises RuntimeError if it is not the files."""
        path = self._share.index.path
        bad = {image: reason for batch in in_flight for image, reason in self._find_bad(batch).items()}
        if bad.keys() <= self._bad.keys():
            raise RuntimeError(f"DALI failed, although it can decode each of the files: {error}") from error
        each = [samples[j : j + 1] for samples in in_flight for j in range(len(samples))]
        if all(int(one.images_B[0]) in bad for one in each):
            for one in each:
                witness = int(one.images_B[0])
                if isinstance(self._decode(witness), Tensor):
                    raise RuntimeError(
                        f"DALI failed on each of {len(each)} images, although torchvision decodes "
                        f"{path(witness)}: {self._complaint(one) or error}"
                    ) from error
        self._bad |= bad
        self.bad_images |= {path(image): reason for image, reason in bad.items()}

    def _find_bad(self, samples: Samples) -> dict[int, str]:
        """Return the bad images of a batch and why, by halving it."""
        if (reason := self._fault(samples)) is None:
            return {}
        if len(samples) == 1:
            return {int(samples.images_B[0]): reason}
        half = len(samples) // 2
        return self._find_bad(samples[:half]) | self._find_bad(samples[half:])


class DaliLoader(PipelineLoader[ImageIndex, Batch]):
    """The batches of `share`, of images in classes.

    `channels_last`: their layout in memory where DALI gives bytes (`settings.output`); else they are NCHW.
    """

    def __init__(
        self,
        share: Share[ImageIndex],
        data: DataSpec,
        *,
        num_threads: int,
        settings: DaliSpec,
        channels_last: bool,
        device: torch.device,
    ) -> None:
        super().__init__(share, num_threads=num_threads, settings=settings, device=device)
        self._data = data
        is_normalised = settings.output_on(device.type).is_normalised
        self._copy = None if is_normalised else partial(normalised, channels_last=channels_last)
        is_packed = share.index.packed is not None
        self._reader = PackReader(share.index, num_threads) if is_packed else None

    def _input(self, samples: Samples) -> Inputs:
        files = self._names(samples) if self._reader is None else self._reader.begin(samples.images_B)
        attempts_B4A = None if samples.crops is None else samples.crops.attempts_B4A
        mirrors = () if samples.crops is None else (samples.crops.mirror_B,)
        shapes_N2 = self._share.index.shapes_N2
        drawn: Inputs
        if shapes_N2 is None:
            drawn = () if attempts_B4A is None else (attempts_B4A,)
        else:
            place = geometry(shapes_N2[samples.images_B], attempts_B4A, self._data)
            drawn = place.window_start_B2, place.window_shape_B2, place.resized_B2, place.offset_B2
        return files, *drawn, *mirrors

    def _ready(self, inputs: Iterator[Inputs]) -> Iterator[Inputs]:
        return inputs if self._reader is None else when_read(inputs)

    def _batch(self, images: Any, samples: Samples) -> Batch:
        labels_N = torch.from_numpy(self._share.index.labels_N[samples.images_B])
        own_NCHW = self._own(from_dlpack(images.as_tensor()), self._copy)
        return Batch(own_NCHW, to_device(labels_N, self._device))

    def _reason(self, image: int, complaint: str) -> str:
        shapes_N2 = self._share.index.shapes_N2
        if shapes_N2 is not None and isinstance(pixels := self._decode(image), Tensor):
            shape, expected = tuple(pixels.shape[1:]), tuple(shapes_N2[image].tolist())
            if shape != expected:
                return "has {} × {} pixels, but its index says {} × {}".format(*shape, *expected)
        return super()._reason(image, complaint)

    def _pipeline(self, source: Source, images_per_batch: int, prefetched_batches: int | None = None) -> Any:
        return build_pipeline(
            source,
            self._data,
            self._machine,
            reads_files=self._reader is None,
            random_crops=self._share.random_crops,
            with_places=self._share.index.shapes_N2 is not None,
            images_per_batch=images_per_batch,
            prefetched_batches=prefetched_batches,
        )

    def close(self) -> None:
        super().close()
        if self._reader is not None:
            self._reader.close()
