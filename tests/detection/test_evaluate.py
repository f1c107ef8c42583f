"""Average precision against pycocotools, and the way of detections to COCO's result format."""

import contextlib
import io
import json
import warnings
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as reference_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from suite.detection.batch import target_of
from suite.detection.coco import CocoIndex, _read, read_split
from suite.detection.evaluate import CocoEvaluator, IouType, average_precision
from suite.detection.resize import Resize
from tests.helpers.coco_folder import Content, box, data_of, write_coco

CASES = 105  # of boxes, and as many of masks
SIDE = 200


def random_content(rng: np.random.Generator) -> Content:
    """Images with boxes of all sizes, crowds among them, and categories with gaps in their ids."""
    images = [{"id": 5 * i + 2, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in range(3)]
    annotations = list[Any]()
    for image in images:
        for _ in range(rng.integers(0, 7)):
            x, y = rng.uniform(0, 150, 2).round(2).tolist()
            w, h = rng.uniform(1, [12, 40, 150][rng.integers(3)], 2).round(2).tolist()
            w, h = min(w, SIDE - x), min(h, SIDE - y)
            is_crowd = int(rng.random() < 0.15)
            category = int(rng.choice([1, 4, 9]))
            annotations.append(box(len(annotations), image["id"], [x, y, w, h], category, iscrowd=is_crowd))
            if rng.random() < 0.3:
                runs = rng.multinomial(SIDE * SIDE, np.full(9, 1 / 9)).tolist()
                annotations[-1]["segmentation"] = {"size": [SIDE, SIDE], "counts": runs}
            annotations[-1]["area"] = w * h * float(rng.uniform(0.5, 1))
    categories = [{"id": number, "name": f"c{number}"} for number in (9, 1, 4)]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_detections(rng: np.random.Generator, content: Content, iou_type: IouType) -> list[Any]:
    """Moved boxes, second ones, wrong categories, false ones, equal scores; one image has over a hundred."""
    found = []
    for one in content["annotations"]:
        for _ in range(rng.integers(0, 3)):
            moved = np.array(one["bbox"]) + rng.normal(0, 3, 4) * (rng.random() < 0.8)
            category = one["category_id"] if rng.random() < 0.8 else 4
            found.append((one["image_id"], category, [*moved[:2], *np.maximum(moved[2:], 0.5)]))
    for _ in range(rng.integers(0, 130)):
        place = [*rng.uniform(0, 120, 2), *rng.uniform(1, 80, 2)]
        found.append((content["images"][1]["id"], int(rng.choice([1, 9])), place))
    detections = []
    for image, category, (x, y, w, h) in found:
        detection = {"image_id": image, "category_id": category, "score": round(float(rng.random()), 1)}
        detection["bbox"] = [float(x), float(y), float(w), float(h)]
        if iou_type == "segm":
            polygon = np.clip([x, y, x + w, y, x + w, y + h, x, y + h], 0, SIDE).tolist()
            rle = reference_mask.merge(reference_mask.frPyObjects([polygon], SIDE, SIDE))
            detection["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        detections.append(detection)
    return detections


def reference(content: Content, detections: list[Any], iou_type: IouType) -> list[float]:
    """The six figures of pycocotools, and the precision of each category.

    Annotations are numbered from 1, since pycocotools takes 0 for no match.
    """
    truth = COCO()
    numbered = [one | {"id": one["id"] + 1} for one in content["annotations"]]
    truth.dataset = json.loads(json.dumps(content | {"annotations": numbered}))
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy, hundreds of times
        truth.createIndex()
        unread = "segmentation" if iou_type == "bbox" else "bbox"
        results = [{k: v for k, v in one.items() if k != unread} for one in detections]
        if not results:
            return []
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_category = [precision[:, :, k][precision[:, :, k] > -1] for k in range(precision.shape[2])]
    figures = [*evaluation.stats[:6], *(one.mean() if one.size else -1 for one in by_category)]
    return [float(figure) for figure in figures]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_average_precision_is_pycocotools_on_random_cases(
    iou_type: IouType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.detection.coco._check_files", lambda index: None)
    folder = write_coco(tmp_path / "set", *[{"images": [], "annotations": [], "categories": []}] * 2)
    file = folder / "annotations/instances_val.json"
    counted = 0
    for case in range(CASES):
        rng = np.random.default_rng([case, iou_type == "segm"])
        content = random_content(rng)
        detections = random_detections(rng, content, iou_type)
        file.write_text(json.dumps(content))
        index = _read.__wrapped__(folder, "val")
        found = average_precision(index, detections, iou_type)
        *figures, by_category = astuple(found)
        figures = np.nan_to_num([*figures, *by_category.values()], nan=-100.0) / 100
        expected = reference(content, detections, iou_type)
        if not expected:
            continue
        np.testing.assert_allclose(figures, expected, rtol=0, atol=1e-12, err_msg=f"case {case}")
        counted += 1
    assert counted >= 100


@pytest.fixture(scope="module")
def index(small_scenes: Path) -> CocoIndex:
    return read_split(data_of(small_scenes, 10), "val")


def outputs_of(index: CocoIndex, resize: Resize) -> tuple[list[Any], list[Any]]:
    """Targets of all images, and the same as perfect outputs of a network."""
    targets = [target_of(index, image, resize, is_mirrored=False) for image in range(len(index))]
    outputs = [
        {
            "boxes": target["boxes"],
            "labels": target["labels"],
            "scores": torch.full((len(target["labels"]),), 0.9),
            "masks": target["masks"][:, None].float(),
        }
        for target in targets
    ]
    return targets, outputs


def test_perfect_detections_in_resized_pixels_have_perfect_precision(index: CocoIndex) -> None:
    evaluator = CocoEvaluator(index, ["bbox", "segm"])
    evaluator.add(*outputs_of(index, Resize(250, 400, with_masks=True)))
    detections = json.loads(json.dumps(evaluator.detections()))
    assert average_precision(index, detections, "bbox").ap == pytest.approx(100)
    # Masks were enlarged and made small again, so that some pixels at borders differ.
    assert average_precision(index, detections, "segm").ap75 == pytest.approx(100)
    first = detections[0]
    assert first["image_id"] == 1
    assert first["category_id"] == index.category_ids[index.labels(0)[0] - 1]
    x1, y1, x2, y2 = index.boxes(0)[0].tolist()
    assert first["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-4)


def test_parts_of_ranks_merge_to_the_whole_and_missed_images_count(index: CocoIndex) -> None:
    targets, outputs = outputs_of(index, Resize(80, 120, with_masks=True))
    parts = [CocoEvaluator(index, ["bbox"]) for _ in range(2)]
    parts[0].add(targets[:6], outputs[:6])
    assert 0 < average_precision(index, parts[0].detections(), "bbox").ap < 99
    parts[1].add(targets[6:], outputs[6:])
    merged = parts[0].detections() + parts[1].detections()
    assert "segmentation" not in merged[0]
    assert average_precision(index, merged, "bbox").ap == pytest.approx(100)


def test_detections_of_the_background_are_left_out(index: CocoIndex) -> None:
    evaluator = CocoEvaluator(index, ["bbox"])
    targets, outputs = outputs_of(index, Resize(80, 120, with_masks=True))
    evaluator.add(targets[:1], [outputs[0] | {"labels": torch.zeros_like(outputs[0]["labels"])}])
    assert evaluator.detections() == []


def test_without_detections_the_precision_is_zero_and_without_boxes_none(index: CocoIndex) -> None:
    found = average_precision(index, [], "bbox")
    assert (found.ap, found.ap50) == (0, 0)
    assert np.isnan(found.ap_large)
    assert set(found.by_category) == set(index.category_names)
