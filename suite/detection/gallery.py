"""A few images with their boxes and the network's, small enough for a record; reports draw them."""

import base64
import json
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import encode_jpeg

from suite.detection.batch import DetectionBatch

MAX_IMAGES, MAX_SIDE, MAX_BOXES = 4, 256, 8
JPEG_QUALITY = 80


class Gallery:
    """Collects the first images of an evaluation with what was found in them."""

    def __init__(self, category_names: tuple[str, ...]) -> None:
        self._names = category_names
        self._images: list[dict[str, Any]] = []

    def add(self, batch: DetectionBatch, outputs: list[dict[str, Tensor]]) -> None:
        """Take images of a batch until there are MAX_IMAGES. Detections are those with the highest scores."""
        for image_CHW, target, output in zip(batch.images, batch.targets, outputs, strict=True):
            if len(self._images) < MAX_IMAGES:
                self._images.append(self._entry(image_CHW, target, output))

    def text(self) -> str:
        """Return the file's content."""
        return json.dumps(self._images) + "\n"

    def _entry(
        self, image_CHW: Tensor, target: dict[str, Tensor], output: dict[str, Tensor]
    ) -> dict[str, Any]:
        scale = min(1.0, MAX_SIDE / max(image_CHW.shape[1:]))
        shown_1CHW = image_CHW[None].float().cpu()
        if scale < 1:
            shown_1CHW = interpolate(shown_1CHW, scale_factor=scale, mode="bilinear", align_corners=False)
        pixels_CHW = (shown_1CHW[0] * 255).round().clamp(0, 255).to(torch.uint8)
        jpeg = bytes(encode_jpeg(pixels_CHW, quality=JPEG_QUALITY).numpy())
        order = output["scores"].argsort(descending=True)[:MAX_BOXES]
        found = {key: output[key][order].cpu() for key in ("boxes", "labels", "scores")}
        return {
            "image_id": int(target["image_id"]),
            "width": pixels_CHW.shape[2],
            "height": pixels_CHW.shape[1],
            "jpeg": base64.b64encode(jpeg).decode(),
            "truth": self._boxes(target["boxes"].cpu(), target["labels"].cpu(), None, scale),
            "found": self._boxes(found["boxes"], found["labels"], found["scores"], scale),
        }

    def _boxes(
        self, boxes_B4: Tensor, labels_B: Tensor, scores_B: Tensor | None, scale: float
    ) -> list[dict[str, Any]]:
        """Return boxes XYXY in pixels of the shown image, with names; background is left out."""
        scores = [None] * len(labels_B) if scores_B is None else scores_B.tolist()
        rows = zip((boxes_B4 * scale).tolist(), labels_B.tolist(), scores, strict=True)
        return [
            {"box": [round(side, 1) for side in box], "name": self._names[label - 1], "score": score}
            for box, label, score in rows
            if label > 0
        ]
