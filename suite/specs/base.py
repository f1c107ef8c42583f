"""The base class of all configuration parts."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Spec(BaseModel):
    """Base of every part: frozen, and an unknown key is an error at every depth."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_for_number(cls, data: Any) -> Any:
        # YAML's `yes` would otherwise become the number 1.
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and "bool" not in str(field.annotation):
                raise ValueError(f"{name}: expected {_plain(field.annotation)}, got {str(value).lower()}")
        return data


def _plain(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation)).replace("NoneType", "null")
