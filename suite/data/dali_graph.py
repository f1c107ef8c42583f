"""DALI's graph: from file names to crops, normalised or as bytes.

DALI's threads read the files and decode only the window of the crop. On a GPU it also resizes; on a CPU
the pipeline calls torch's vectorised resize, which takes a fifth of the time of DALI's own and is the
one that the torchvision loader uses.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from suite.specs.dali import DaliSpec
from suite.specs.loader_table import INTERPOLATIONS

# A batch of DALI's: one array for each image.
Arrays = list[NDArray[Any]]
# Gives the inputs of a batch; raises StopIteration after the last one of a pass.
Source = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True)
class Machine:
    """What pipelines run on. `threads` resize on a CPU, `num_threads` of DALI's own decode."""

    device: torch.device
    settings: DaliSpec
    num_threads: int
    threads: ThreadPoolExecutor

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def pipeline(self, images_per_batch: int, prefetched_batches: int | None = None) -> Pipeline:
        """Return an empty pipeline. `prefetched_batches`: None is as the settings say."""
        return Pipeline(
            batch_size=images_per_batch,
            num_threads=self.num_threads,
            device_id=(self.device.index or 0) if self.on_gpu else None,
            prefetch_queue_depth=prefetched_batches or self.settings.prefetched_batches(self.device.type),
        )

    def decoding(self, *, reserves: bool) -> dict[str, Any]:
        """Return the options of DALI's decoders, which on a GPU reserve memory for a run's length if asked.

        Chroma is upsampled smoothly everywhere, as libjpeg and torchvision do it; DALI's default on GPUs is
        to repeat it, which gives other pixels.
        """
        common = {"output_type": types.RGB, "adjust_orientation": False, "jpeg_fancy_upsampling": True}
        if not self.on_gpu:
            return {"device": "cpu", **common}
        options = {"device": "mixed", **common, "hw_decoder_load": self.settings.hardware_decoder_load}
        if not reserves:
            return options
        return {
            **options,
            "device_memory_padding": self.settings.device_memory_padding_mib << 20,
            "host_memory_padding": self.settings.host_memory_padding_mib << 20,
            "preallocate_width_hint": self.settings.preallocate_width,
            "preallocate_height_hint": self.settings.preallocate_height,
        }


def build_pipeline(
    source: Source,
    data: DataSpec,
    machine: Machine,
    *,
    random_crops: bool,
    with_places: bool,
    images_per_batch: int,
    prefetched_batches: int | None = None,
    reads_files: bool = True,
) -> Pipeline:
    """Return a pipeline that yields batches on the device: float32 NCHW, or uint8 NHWC.

    `source` gives file names as arrays of bytes (without `reads_files`, the files' content), then the parts
    of a `Geometry` if it has the crops (`with_places`), else with random crops the attempts; and with random
    crops the mirrors last.
    `images_per_batch` is the maximum of a batch.
    """
    pipeline = machine.pipeline(images_per_batch, prefetched_batches)
    with pipeline:
        num_drawn = int(random_crops) if not with_places else 4
        inputs = fn.external_source(source=source, num_outputs=1 + num_drawn + int(random_crops), batch=True)
        files, drawn, mirror = inputs[0], inputs[1 : 1 + num_drawn], inputs[-1] if random_crops else 0
        if reads_files:
            # Mapping files of 100 kB costs more in page faults than it saves, and is slow on network disks.
            files = fn.io.file.read(files, dont_use_mmap=True)
        # A pipeline of one batch looks for bad files: it is built often, beside others.
        options = machine.decoding(reserves=prefetched_batches is None)
        start, shape, resized, offset = drawn if with_places else _places(files, drawn, data)
        images = fn.decoders.image_slice(files, start=start, shape=shape, axes=[0, 1], **options)
        crop, size = (images, resized, offset), data.image_size
        if machine.on_gpu:
            images = resize_and_slice(*crop, size, data.interpolation)
        else:
            resize_one = partial(_resize, size=size, mode=data.interpolation)
            resize = partial(
                _resize_batch, resize=resize_one, threads=machine.threads, num_threads=machine.num_threads
            )
            images = fn.python_function(*crop, function=resize, batch_processing=True, output_layouts="HWC")
        if machine.settings.output_on(machine.device.type).is_normalised:
            images = fn.crop_mirror_normalize(
                images,
                mirror=mirror,
                mean=[255 * mean for mean in MEAN],
                std=[255 * std for std in STD],
                dtype=types.FLOAT,
                output_layout="CHW",
            )
        elif random_crops:
            images = fn.flip(images, horizontal=mirror)
        pipeline.set_outputs(images)
    return pipeline


def normalised(images_NHWC: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    """Return bytes (N, H, W, 3) as the network takes them: (N, 3, H, W) float32, normalised.

    One operation, x · 1/(255 std) − mean/std, which also changes the layout in memory.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images_NCHW = images_NHWC.permute(0, 3, 1, 2)
    out_NCHW = torch.empty(
        images_NCHW.shape, dtype=torch.float32, device=images_NHWC.device, memory_format=layout
    )
    shift_1C11, scale_1C11 = _normalisation(images_NHWC.device)
    return torch.addcmul(shift_1C11, images_NCHW, scale_1C11, out=out_NCHW)


@functools.lru_cache(maxsize=4)
def _normalisation(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    std_1C11, mean_1C11 = (torch.tensor(one, dtype=torch.float64).view(1, -1, 1, 1) for one in (STD, MEAN))
    shift_1C11, scale_1C11 = -mean_1C11 / std_1C11, 1 / (255 * std_1C11)
    return shift_1C11.to(device, torch.float32), scale_1C11.to(device, torch.float32)


def _places(files: Any, attempts: Sequence[Any], data: DataSpec) -> Any:
    """Return the parts of the crops' `Geometry`, from the sizes that the files' headers name."""
    shapes = fn.peek_image_shape(files, adjust_orientation=False, dtype=types.INT32)
    function = partial(_geometry, data=data)
    return fn.python_function(shapes, *attempts, function=function, num_outputs=4, batch_processing=True)


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
