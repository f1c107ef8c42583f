"""The loader on NVIDIA DALI, for CPU and GPU.

DALI only executes: order, crops and mirrors come from the plan. Its threads read the files and decode no
more than the crop's window. On a GPU it also resizes there; on a CPU torch's vectorised resize does that,
called from DALI's pipeline, because it takes a fifth of the time of DALI's own (and is the one that the
torchvision loader uses).

A file that cannot be decoded ends a DALI pipeline. The loader then looks for the bad files among the
batches in flight, and goes on at the same batch with a new pipeline.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, pipeline_def, types
from torch.nn.functional import interpolate
from torch.utils.dlpack import from_dlpack

from suite.data.batch import MEAN, STD, Batch, decoding_fault, good_image
from suite.data.crops import Int32s, geometry
from suite.data.plan import Samples, Share
from suite.experiment import DataSpec

PREFETCHED_BATCHES = 2
# A batch of DALI's: one array for each image.
Arrays = list[NDArray[Any]]


class DaliLoader:
    """The batches of `share`. See `Loader`.

    `device` is the rank's own CUDA device, or the CPU. Raises RuntimeError for a failure of DALI that no
    file explains.
    """

    def __init__(self, share: Share, data: DataSpec, *, num_threads: int, device: torch.device) -> None:
        self.bad_images: dict[str, str] = {}
        self._bad: set[int] = set()
        self._share = share
        self._data = data
        self._device = device
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="resize")
        self._num_threads = num_threads

    def __iter__(self) -> Iterator[Batch]:
        number = found_good = 0
        while True:
            # What the pipeline was given and has not given back.
            in_flight: deque[tuple[int, Samples]] = deque()
            pipeline = self._pipeline(self._inputs(number, in_flight), self._share.images_per_batch)
            try:
                while True:
                    (images,) = pipeline.run()
                    number, samples = in_flight.popleft()
                    number += 1
                    found_good += len(samples)
                    yield self._batch(images, samples)
            except StopIteration:
                break
            except RuntimeError as error:
                known = len(self._bad)
                for _, samples in in_flight:
                    self._find_bad(samples)
                if len(self._bad) == known:
                    raise RuntimeError("DALI failed, although each of the files can be decoded") from error
        if self._share.num_batches and not found_good:
            good_image(self._share.index, 0, lambda image: self._fault(Samples(np.array([image]), None)))

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _batch(self, images: Any, samples: Samples) -> Batch:
        # No copy: DALI leaves a buffer alone for as long as a tensor refers to it.
        labels_N = torch.from_numpy(self._share.index.labels_N[samples.images_B])
        return Batch(from_dlpack(images.as_tensor()), labels_N.to(self._device))

    # ------------------------------------------------------------ what goes in

    def _inputs(self, number: int, in_flight: deque[tuple[int, Samples]]) -> Iterator[tuple[Any, ...]]:
        """Batches from `number` on as the pipeline takes them, each noted as in flight."""
        while self._share.num_batches is None or number < self._share.num_batches:
            samples = self._without_bad(self._share.batch(number))
            if len(samples):
                in_flight.append((number, samples))
                yield self._input(samples)
            number += 1

    def _input(self, samples: Samples) -> tuple[Any, ...]:
        names = [np.frombuffer(self._share.index.path_bytes(i), np.uint8) for i in samples.images_B]
        crops = samples.crops
        return (names,) if crops is None else (names, crops.attempts_B4A, crops.mirror_B)

    def _without_bad(self, samples: Samples) -> Samples:
        suspects = [j for j, image in enumerate(samples.images_B) if int(image) in self._bad]
        if not suspects:
            return samples
        if samples.crops is None:
            return Samples(np.delete(samples.images_B, suspects), None)
        images_B = samples.images_B.copy()
        for j in suspects:
            # A broken file may hold this window all the same, and who has not met it yet would use it:
            # trying it again keeps a batch the same whatever was met before.
            fault = partial(self._suspect_fault, samples[j : j + 1])
            images_B[j] = good_image(self._share.index, int(images_B[j]), fault)
        return Samples(images_B, samples.crops)

    # ------------------------------------------------------------ bad files

    def _suspect_fault(self, sample: Samples, image: int) -> str | None:
        return self._fault(Samples(np.array([image]), sample.crops)) if image in self._bad else None

    def _fault(self, samples: Samples) -> str | None:
        """Why these cannot be decoded as one batch."""
        try:
            self._pipeline(iter([self._input(samples)]), len(samples), prefetched_batches=1).run()
        except RuntimeError as error:
            return decoding_fault(self._share.index.path(int(samples.images_B[0])), error)
        return None

    def _find_bad(self, samples: Samples) -> None:
        """Halve the batch until the bad ones stand alone."""
        reason = self._fault(samples)
        if reason is None:
            return
        if len(samples) == 1:
            image = int(samples.images_B[0])
            self._bad.add(image)
            self.bad_images[self._share.index.path(image)] = reason
        else:
            half = len(samples) // 2
            self._find_bad(samples[:half])
            self._find_bad(samples[half:])

    # ------------------------------------------------------------ DALI's graph

    def _pipeline(
        self, source: Iterator[tuple[Any, ...]], batch_size: int, prefetched_batches: int = PREFETCHED_BATCHES
    ) -> Pipeline:
        on_gpu = self._device.type == "cuda"
        random = self._share.random_crops
        size = self._data.image_size

        @pipeline_def(
            batch_size=batch_size,
            num_threads=self._num_threads,
            device_id=(self._device.index or 0) if on_gpu else None,
            prefetch_queue_depth=prefetched_batches,
        )
        def graph() -> Any:
            names, *chance = fn.external_source(source=source, num_outputs=3 if random else 1, batch=True)
            attempts, mirror = (chance[:1], chance[1]) if random else ([], 0)
            files = fn.io.file.read(names)
            shapes = fn.peek_image_shape(files, adjust_orientation=False, dtype=types.INT32)
            start, shape, resized, offset = fn.python_function(
                shapes,
                *attempts,
                function=partial(_geometry, data=self._data),
                num_outputs=4,
                batch_processing=True,
            )
            images = fn.decoders.image_slice(
                files,
                device="mixed" if on_gpu else "cpu",
                start=start,
                shape=shape,
                axes=[0, 1],
                output_type=types.RGB,
                adjust_orientation=False,
            )
            if on_gpu:
                images = fn.resize(images, size=resized, interp_type=types.INTERP_LINEAR, antialias=True)
                images = fn.slice(images, start=offset, shape=[size, size], axes=[0, 1])
            else:
                images = fn.python_function(
                    images,
                    resized,
                    offset,
                    function=partial(_resize_batch, size=size, threads=self._threads),
                    batch_processing=True,
                    output_layouts="HWC",
                )
            return fn.crop_mirror_normalize(
                images,
                mirror=mirror,
                mean=[255 * mean for mean in MEAN],
                std=[255 * std for std in STD],
                dtype=types.FLOAT,
                output_layout="CHW",
            )

        return graph()


def _geometry(shapes: Arrays, attempts: Arrays | None = None, *, data: DataSpec) -> tuple[Arrays, ...]:
    attempts_B4A = None if attempts is None else np.stack(attempts)
    crops = geometry(np.stack(shapes)[:, :2], attempts_B4A, data)
    parts = crops.window_start_B2, crops.window_shape_B2, crops.resized_B2, crops.offset_B2
    return tuple(list(part_B2) for part_B2 in parts)


def _resize_batch(
    images: Arrays, resized: Arrays, offsets: Arrays, *, size: int, threads: ThreadPoolExecutor
) -> Arrays:
    return list(threads.map(partial(_resize, size=size), images, resized, offsets))


def _resize(image_HWC: NDArray[np.uint8], resized: Int32s, offset: Int32s, size: int) -> NDArray[np.uint8]:
    height, width = resized.tolist()
    top, left = offset.tolist()
    with torch.inference_mode():
        # Channels last, which is how it lies in memory and what torch's fast kernel wants.
        image_1CHW = torch.from_numpy(image_HWC)[None].permute(0, 3, 1, 2)
        resized_1CHW = interpolate(image_1CHW, size=(height, width), mode="bilinear", antialias=True)
        crop_HWC = resized_1CHW[0, :, top : top + size, left : left + size].permute(1, 2, 0)
        return np.ascontiguousarray(crop_HWC.numpy())
