"""Average precision as COCO defines it, by faster-coco-eval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from suite.detection.coco import CocoIndex
from suite.detection.coco_api import COCO, COCOeval_faster, coco_mask
from suite.detection.masks import rle_of

IouType = Literal["bbox", "segm"]
Detection = dict[str, Any]
BACKGROUND = 0
"""A RetinaNet may give this label, although it never sees it in training."""
MASK_THRESHOLD = 0.5
"""Above this probability a pixel is a mask's, as in torchvision's reference."""
# Places in the results of COCO's evaluation.
IOU_50, IOU_75, ALL_SIZES, MOST_DETECTIONS = 0, 5, 0, -1


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision in percent; NaN where there is no box that counts.

    `ap` is the mean over the IoU thresholds 0.50, 0.55 … 0.95 and the categories; sizes are small (below 32²
    pixels), medium and large (from 96²). `by_category`: `ap` of each category, by its name.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    by_category: dict[str, float]


class CocoEvaluator:
    """Collects a network's detections on this rank, in COCO's result format.

    `iou_types`: with `segm`, detections have masks, too.
    """

    def __init__(self, index: CocoIndex, iou_types: Sequence[IouType]) -> None:
        self._category_ids = index.category_ids
        self._with_masks = "segm" in iou_types
        self._detections = list[Detection]()

    def add(self, targets: Sequence[Mapping[str, Tensor]], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Add torchvision's outputs for a batch, in pixels of the resized images, mapped to the originals."""
        for target, output in zip(targets, outputs, strict=True):
            self._add(target, output)

    def detections(self) -> list[Detection]:
        """Return the detections in the order in which they came; ranks merge theirs by joining the lists."""
        return self._detections

    def _add(self, target: Mapping[str, Tensor], output: Mapping[str, Tensor]) -> None:
        (image_id,) = target["image_id"].tolist()
        original, resized = target["orig_size"].cpu(), target["size"].cpu()
        height, width = original.tolist()
        scale = (original / resized).flip(0).repeat(2).to(torch.float64)
        boxes_B4 = output["boxes"].detach().cpu().to(torch.float64) * scale
        boxes_B4[:, 2:] -= boxes_B4[:, :2]
        masks = output["masks"] if self._with_masks else [None] * len(boxes_B4)
        columns = (boxes_B4.tolist(), output["labels"].tolist(), output["scores"].tolist(), masks)
        for box, label, score, mask in zip(*columns, strict=True):
            if label == BACKGROUND:
                continue
            found = {"image_id": image_id, "category_id": self._category_ids[label - 1], "bbox": box}
            if mask is not None:
                found["segmentation"] = _rle(mask, height, width)
            self._detections.append(found | {"score": score})


def average_precision(
    index: CocoIndex, detections: Sequence[Detection], iou_type: IouType
) -> AveragePrecision:
    """Return the average precision over all images of the index, also those without a detection.

    `detections` are in COCO's result format; of other images than the index's they are left out. Boxes that
    mark crowds neither count nor punish what they hold.
    """
    truth = COCO(_truth(index, iou_type))
    known = set(index.image_ids_N.tolist())
    results = truth.loadRes([_result(one, iou_type) for one in detections if one["image_id"] in known])
    evaluation = COCOeval_faster(truth, results, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    shape = tuple(evaluation.eval["counts"])
    precision_TRKAM = np.asarray(evaluation.eval["precision"], np.float64).reshape(shape)
    precision_TRKA = precision_TRKAM[..., MOST_DETECTIONS]
    overall_TRK = precision_TRKA[..., ALL_SIZES]
    small, medium, large = (_mean(precision_TRKA[..., 1 + size]) for size in range(3))
    return AveragePrecision(
        ap=_mean(overall_TRK),
        ap50=_mean(overall_TRK[IOU_50]),
        ap75=_mean(overall_TRK[IOU_75]),
        ap_small=small,
        ap_medium=medium,
        ap_large=large,
        by_category={name: _mean(overall_TRK[:, :, k]) for k, name in enumerate(index.category_names)},
    )


def _mean(precision: NDArray[np.float64]) -> float:
    """Return the mean in percent; -1 marks a category without boxes."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else float("nan")


def _truth(index: CocoIndex, iou_type: IouType) -> dict[str, Any]:
    """Return the boxes of the index in COCO's format, numbered from 1, since 0 marks no match."""
    one = index.instances
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for image, image_id in enumerate(index.image_ids_N.tolist()):
        height, width = index.shape(image)
        images.append({"id": image_id, "height": height, "width": width})
        masks = index.segmentations(image) if iou_type == "segm" else []
        first, end = index.rows_N2[image].tolist()
        for row in range(first, end):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": index.category_ids[one.labels_A[row] - 1],
                "bbox": one.boxes_A4[row].tolist(),
                "area": float(one.areas_A[row]),
                "iscrowd": int(one.is_crowd_A[row]),
            }
            if masks:
                where = f"{index.file}: box {row - first + 1} of image {image_id}"
                annotation["segmentation"] = rle_of(masks[row - first], height, width, where)
            annotations.append(annotation)
    names = zip(index.category_ids, index.category_names, strict=True)
    categories = [{"id": number, "name": name} for number, name in names]
    return {"images": images, "annotations": annotations, "categories": categories}


def _result(detection: Detection, iou_type: IouType) -> Detection:
    """Return a detection with what its kind of IoU reads, so that areas are those of masks or of boxes."""
    unread = "segmentation" if iou_type == "bbox" else "bbox"
    return {key: value for key, value in detection.items() if key != unread}


def _rle(mask_1HW: Tensor, height: int, width: int) -> dict[str, Any]:
    """Return a mask of probabilities, resized to the original image, as a compressed RLE in text."""
    probability = interpolate(mask_1HW[None].float(), size=(height, width), mode="bilinear")[0, 0]
    pixels = (probability > MASK_THRESHOLD).to(torch.uint8).cpu().numpy()
    rle = coco_mask.encode(np.asfortranarray(pixels))
    return {"size": [height, width], "counts": rle["counts"].decode()}
