"""Detection's loader on NVIDIA DALI: it decodes, resizes and mirrors; targets are made on the CPU."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types
from torch import Tensor
from torch.utils.dlpack import from_dlpack
from torchvision.transforms.v2 import functional as F

from suite.data.dali import Inputs, PipelineLoader
from suite.data.dali_graph import Arrays, Source
from suite.data.plan import Samples, Share
from suite.detection.batch import DetectionBatch, batch_of, target_of
from suite.detection.coco import CocoIndex
from suite.detection.resize import Resize
from suite.detection.vision import decode_sized, size_fault
from suite.specs.dali import DaliSpec


class DetectionDaliLoader(PipelineLoader[CocoIndex, DetectionBatch]):
    """The batches of `share`, with `num_threads` threads that decode and as many that make targets."""

    def __init__(
        self,
        share: Share[CocoIndex],
        resize: Resize,
        *,
        num_threads: int,
        settings: DaliSpec,
        device: torch.device,
    ) -> None:
        super().__init__(share, num_threads=num_threads, settings=settings, device=device)
        self._resize = resize

    def _input(self, samples: Samples) -> Inputs:
        index = self._share.index
        sizes = [np.array(self._resize.shape(*index.shape(i)), np.int32) for i in samples.images_B.tolist()]
        return self._names(samples), sizes, _mirrors(samples)

    def _batch(self, images: Any, samples: Samples) -> DetectionBatch:
        index = self._share.index
        targets = self._threads.map(
            lambda image, mirror: target_of(index, image, self._resize, is_mirrored=bool(mirror)),
            samples.images_B.tolist(),
            _mirrors(samples).tolist(),
        )
        pixels = [self._own(from_dlpack(images[j])) for j in range(len(samples))]
        return batch_of([one.permute(2, 0, 1) for one in pixels], list(targets), self._device)

    def _decode(self, image: int) -> Tensor | str:
        return decode_sized(self._share.index, image)

    def _check(self, outputs: Sequence[Any], samples: Samples) -> None:
        for image, shape in zip(samples.images_B.tolist(), np.asarray(outputs[1]), strict=True):
            height, width = shape[:2].tolist()
            if fault := size_fault(self._share.index, image, height, width):
                raise RuntimeError(fault)

    def _reason(self, image: int, complaint: str) -> str:
        other = self._decode(image)
        return other if isinstance(other, str) else super()._reason(image, complaint)

    def _pipeline(
        self, source: Source, images_per_batch: int, prefetched_batches: int | None = None
    ) -> Pipeline:
        pipeline = self._machine.pipeline(images_per_batch, prefetched_batches)
        with pipeline:
            names, sizes, mirrors = fn.external_source(source=source, num_outputs=3, batch=True)
            files = fn.io.file.read(names, dont_use_mmap=True)
            shapes = fn.peek_image_shape(files, adjust_orientation=False, dtype=types.INT32)
            images = fn.decoders.image(files, **self._machine.decoding(reserves=prefetched_batches is None))
            if self._machine.on_gpu:
                sizes = fn.cast(sizes, dtype=types.FLOAT)
                images = fn.resize(images, size=sizes, interp_type=types.INTERP_LINEAR, antialias=True)
                images = fn.flip(images, horizontal=mirrors)
            else:
                resize = partial(_resized, threads=self._threads)
                images = fn.python_function(
                    images, sizes, mirrors, function=resize, batch_processing=True, output_layouts="HWC"
                )
            pipeline.set_outputs(images, shapes)
        return pipeline


def _mirrors(samples: Samples) -> Any:
    count = len(samples)
    return np.zeros(count, np.int32) if samples.crops is None else samples.crops.mirror_B


def _resized(images: Arrays, sizes: Arrays, mirrors: Arrays, *, threads: Any) -> Arrays:
    """Resize with torch, which is faster on a CPU than DALI's own and what the torchvision loader uses."""
    return list(threads.map(_resize, images, sizes, mirrors))


def _resize(image_HWC: Any, size: Any, mirror: Any) -> Any:
    with torch.inference_mode():
        image_CHW = torch.from_numpy(image_HWC).permute(2, 0, 1)
        resized_CHW = F.resize(image_CHW, size.tolist(), antialias=True)
        if mirror:
            resized_CHW = F.horizontal_flip(resized_CHW)
        return np.ascontiguousarray(resized_CHW.permute(1, 2, 0).numpy())
