"""Measure the estimation shift of batch normalisation, and what is done about it.

    import shiftbench

    model = shiftbench.convert(torchvision.models.resnet50(), shiftbench.XbnSpec(kind="xbn"))
    profile = shiftbench.probe(model, batches)          # the shift of every BN layer, in one inference pass
    shiftbench.diagnose(model, training_batches, batches).verdict
    shiftbench.read_runs("runs")                         # a row for each run, as a pandas table

Names are imported when they are first used, so that `import shiftbench` costs milliseconds. What is not here
is in `suite` (the library), `jobs` (processes and clusters) and `reports` (pages). `shiftbench.lightning` and
`shiftbench.huggingface` hold a `ShiftCallback` for each of these trainers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from suite import __version__
from suite.errors import UserError, missing_extra

if TYPE_CHECKING:
    from shiftbench.records import read_runs, report
    from suite.models import build_model, convert, named_model
    from suite.shift import TidMeter, attribute, diagnose, perturb, probe, remedies, robustness
    from suite.specs.model import ModelSpec
    from suite.specs.norm import XbnSpec

__all__ = [
    "ModelSpec",
    "TidMeter",
    "UserError",
    "XbnSpec",
    "__version__",
    "attribute",
    "build_model",
    "convert",
    "diagnose",
    "named_model",
    "perturb",
    "probe",
    "read_runs",
    "remedies",
    "report",
    "robustness",
]

_MODULES = {
    "suite.shift": ("TidMeter", "attribute", "diagnose", "perturb", "probe", "remedies", "robustness"),
    "suite.models": ("build_model", "convert", "named_model"),
    "suite.specs.model": ("ModelSpec",),
    "suite.specs.norm": ("XbnSpec",),
    "shiftbench.records": ("read_runs", "report"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'shiftbench' has no attribute {name!r}")
    try:
        found = getattr(importlib.import_module(_MODULE_OF[name]), name, None)
        if found is None:  # a package within a package, which nothing has imported yet
            found = importlib.import_module(f"{_MODULE_OF[name]}.{name}")
    except ModuleNotFoundError as error:
        if (sentence := missing_extra(error)) is None:
            raise
        raise UserError(f"shiftbench.{name}: {sentence}") from None
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
