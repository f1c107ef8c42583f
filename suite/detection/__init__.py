"""The detection task: data in COCO's format, its loaders, and average precision."""
