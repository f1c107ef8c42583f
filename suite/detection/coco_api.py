"""faster-coco-eval, the COCO API in C++, which imports OpenCV if it is installed."""

from suite.errors import UserError
from suite.large_imports import keeping_library_path

try:
    with keeping_library_path():
        from faster_coco_eval.core import COCO, COCOeval_faster
        from faster_coco_eval.core import mask as coco_mask
except ImportError as error:
    raise UserError(f"detection needs faster-coco-eval ({error}): install the extra `detection`") from None

__all__ = ["COCO", "COCOeval_faster", "coco_mask"]
