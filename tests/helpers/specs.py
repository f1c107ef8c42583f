"""Model specs in one line."""

from suite.experiment import ModelSpec


def spec(arch: str, **norm: object) -> ModelSpec:
    return ModelSpec.model_validate({"arch": arch, "norm": norm or {"kind": "bn"}, "num_classes": 10})
