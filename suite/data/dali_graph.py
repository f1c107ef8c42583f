"""DALI's graph: from file names to normalised crops.

DALI's threads read the files and decode only the window of the crop. On a GPU it also resizes; on a CPU
the pipeline calls torch's vectorised resize, which takes a fifth of the time of DALI's own and is the
one that the torchvision loader uses.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from torch.nn.functional import interpolate

from suite.data.crops import Int32s, geometry
from suite.data.loader import MEAN, STD
from suite.experiment import DataSpec
from suite.specs.loader_table import INTERPOLATIONS

# A batch of DALI's: one array for each image.
Arrays = list[NDArray[Any]]


def build_pipeline(
    source: Iterator[tuple[Any, ...]],
    data: DataSpec,
    *,
    reads_files: bool,
    random_crops: bool,
    images_per_batch: int,
    prefetched_batches: int,
    threads: ThreadPoolExecutor,
    num_threads: int,
    device: torch.device,
) -> Pipeline:
    """Return a pipeline that ends with its source and yields float32 NCHW batches on `device`.

    `source` yields batches of file names as arrays of bytes (without `reads_files`, of the files' content)
    and, with random crops, the attempts and mirrors of `CropDraws`. `threads` resize on a CPU.
    `images_per_batch` is the maximum of a batch.
    """
    on_gpu = device.type == "cuda"
    pipeline = Pipeline(
        batch_size=images_per_batch,
        num_threads=num_threads,
        device_id=(device.index or 0) if on_gpu else None,
        prefetch_queue_depth=prefetched_batches,
    )
    with pipeline:
        files, *chance = fn.external_source(source=source, num_outputs=3 if random_crops else 1, batch=True)
        attempts, mirror = (chance[:1], chance[1]) if random_crops else ([], 0)
        if reads_files:
            # Mapping files of 100 kB costs more in page faults than it saves, and is slow on network disks.
            files = fn.io.file.read(files, dont_use_mmap=True)
        shapes = fn.peek_image_shape(files, adjust_orientation=False, dtype=types.INT32)
        crops: Any = fn.python_function(
            shapes, *attempts, function=partial(_geometry, data=data), num_outputs=4, batch_processing=True
        )
        start, shape, resized, offset = crops
        images = fn.decoders.image_slice(
            files,
            device="mixed" if on_gpu else "cpu",
            start=start,
            shape=shape,
            axes=[0, 1],
            output_type=types.RGB,
            adjust_orientation=False,
        )
        crop, size = (images, resized, offset), data.image_size
        if on_gpu:
            images = resize_and_slice(*crop, size, data.interpolation)
        else:
            resize_one = partial(_resize, size=size, mode=data.interpolation)
            resize = partial(_resize_batch, resize=resize_one, threads=threads, num_threads=num_threads)
            images = fn.python_function(*crop, function=resize, batch_processing=True, output_layouts="HWC")
        images = fn.crop_mirror_normalize(
            images,
            mirror=mirror,
            mean=[255 * mean for mean in MEAN],
            std=[255 * std for std in STD],
            dtype=types.FLOAT,
            output_layout="CHW",
        )
        pipeline.set_outputs(images)
    return pipeline


def resize_and_slice(images: Any, resized: Any, offset: Any, size: int, mode: str = "bilinear") -> Any:
    """DALI's resize, then a square of `size` pixels. HWC; `resized` and `offset`: int32, two per image."""
    kernel = getattr(types, INTERPOLATIONS[mode])
    # fn.resize takes fractions of pixels, and sizes as floats only.
    resized = fn.cast(resized, dtype=types.FLOAT)
    images = fn.resize(images, size=resized, interp_type=kernel, antialias=True)
    return fn.slice(images, start=offset, shape=[size, size], axes=[0, 1])


def _geometry(shapes: Arrays, attempts: Arrays | None = None, *, data: DataSpec) -> tuple[Arrays, ...]:
    attempts_B4A = None if attempts is None else np.stack(attempts)
    crops = geometry(np.stack(shapes)[:, :2], attempts_B4A, data)
    parts = crops.window_start_B2, crops.window_shape_B2, crops.resized_B2, crops.offset_B2
    return tuple(list(part_B2) for part_B2 in parts)


def _resize_batch(
    images: Arrays,
    resized: Arrays,
    offsets: Arrays,
    *,
    resize: Callable[..., NDArray[np.uint8]],
    threads: ThreadPoolExecutor,
    num_threads: int,
) -> Arrays:
    # One task per thread: one per image would take a tenth longer.
    def every_nth(first: int) -> Arrays:
        mine = slice(first, None, num_threads)
        return [resize(*one) for one in zip(images[mine], resized[mine], offsets[mine], strict=True)]

    done: Arrays = [*images]
    for first, resized_images in enumerate(threads.map(every_nth, range(num_threads))):
        done[first::num_threads] = resized_images
    return done


def _resize(
    image_HWC: NDArray[np.uint8], resized: Int32s, offset: Int32s, *, size: int, mode: str
) -> NDArray[np.uint8]:
    height, width = resized.tolist()
    top, left = offset.tolist()
    with torch.inference_mode():
        # Channels last, as in memory and as torch's fast kernel needs it.
        image_1CHW = torch.from_numpy(image_HWC)[None].permute(0, 3, 1, 2)
        resized_1CHW = interpolate(image_1CHW, size=(height, width), mode=mode, antialias=True)
        crop_HWC = resized_1CHW[0, :, top : top + size, left : left + size].permute(1, 2, 0)
        return np.ascontiguousarray(crop_HWC.numpy())
