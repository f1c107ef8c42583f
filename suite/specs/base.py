"""The base class of all configuration parts."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from suite.wording import expected, models_of, shown

MAX_WHOLE = 2**53
"""No number of a config is larger; below it, whole numbers are exact as floating-point ones too."""


class Spec(BaseModel):
    """Base of every part: frozen, finite, and an unknown key is an error at every depth."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_typed(cls, data: Any) -> Any:
        """Take `norm: bn` for `norm: {kind: bn}`, and refuse true and false where a number is expected."""
        if not isinstance(data, dict):
            return data
        for name, value in data.items():
            field = cls.model_fields.get(name)
            if field is None:
                continue
            if isinstance(value, str) and len(models_of(field.annotation)) > 1:
                data = {**data, name: {"kind": value}}
            if "bool" not in str(field.annotation) and "Any" not in str(field.annotation):
                for place, item in enumerate(value) if isinstance(value, list | tuple) else [("", value)]:
                    if isinstance(item, bool):
                        key = name if place == "" else f"{name}.{place}"
                        what = expected(field.annotation, field.metadata)
                        raise ValueError(f"{key}: expected {what}, got {shown(item)}")
        return data

    @model_validator(mode="after")
    def _of_moderate_size(self) -> "Spec":
        for name, value in self:
            if isinstance(value, int) and abs(value) > MAX_WHOLE:
                raise ValueError(f"{name}: {shown(value, 30)} is too large a number")
        return self
