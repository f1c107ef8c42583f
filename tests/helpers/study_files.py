"""Studies as YAML files."""

from pathlib import Path
from typing import Any

import yaml

BASE = {
    "model": {"arch": "small_resnet11"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 64, "val_images": 41},
    "batch": {"global_batch_size": 16},
}


def write(folder: Path, **keys: Any) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(keys.pop("base", BASE)))
    path = folder / "mine.yaml"
    grid = {"batch.norm_batch_size": {"kind": "grid", "values": [2, 16]}}
    path.write_text(yaml.safe_dump({"experiment": "base.yaml", "space": grid, **keys}, sort_keys=False))
    return path


def grid(*values: Any) -> dict[str, Any]:
    return {"kind": "grid", "values": list(values)}
