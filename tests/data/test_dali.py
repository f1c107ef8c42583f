"""What DALI does on a GPU only, as far as a CPU can show it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn
from torch.nn.functional import interpolate

from suite.data.crops import geometry
from suite.data.dali_graph import resize_and_slice
from suite.data.vision import decode_bytes
from suite.experiment import DataSpec


@pytest.mark.parametrize("eval_resize", [64, 110])  # the pictures' shorter sides: 90 to 224
def test_dalis_resize_is_torchs(pictures: Path, eval_resize: int) -> None:
    """On the types that the pipeline passes: sizes and offsets as int32."""
    data = DataSpec(name="test", path="/", num_classes=3, image_size=64, eval_resize=eval_resize)
    images = [
        decode_bytes(np.fromfile(path, np.uint8)) for path in sorted((pictures / "val").glob("*/*.jpg"))
    ]
    images_HWC = [image_CHW.permute(1, 2, 0).numpy() for image_CHW in images]
    places = geometry(np.array([image_HWC.shape[:2] for image_HWC in images_HWC], np.int32), None, data)
    assert places.resized_B2.dtype == places.offset_B2.dtype == np.int32
    batch = images_HWC, list(places.resized_B2), list(places.offset_B2)
    pipeline = Pipeline(batch_size=len(images), num_threads=1, device_id=None)
    with pipeline:
        inputs = fn.external_source(source=[batch], num_outputs=3, layout=["HWC", "", ""])
        pipeline.set_outputs(resize_and_slice(*inputs, size=64))
    (resized,) = pipeline.run()
    resized_BHWC = np.array(resized.as_tensor())
    assert resized_BHWC.shape == (11, 64, 64, 3)
    assert resized_BHWC.dtype == np.uint8
    for k, image_CHW in enumerate(images):
        height, width, top, left = *places.resized_B2[k].tolist(), *places.offset_B2[k].tolist()
        whole_1CHW = interpolate(image_CHW[None], size=(height, width), mode="bilinear", antialias=True)
        expected_HWC = whole_1CHW[0, :, top : top + 64, left : left + 64].permute(1, 2, 0)
        difference_HWC = torch.from_numpy(resized_BHWC[k]).float() - expected_HWC
        # In grey levels. A place that is off by one pixel would show in the grain as several.
        assert difference_HWC.abs().mean() < 1
