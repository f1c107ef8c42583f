"""Which norm everything else is compared with."""

from dataclasses import dataclass

from reports.frames import BN, Frames
from suite.errors import UserError

_LABELS_SHOWN = 12


@dataclass(frozen=True)
class Baseline:
    """The label of a norm, None where nothing is compared; and a sentence that says why there is none."""

    label: str | None
    note: str = ""


def resolve_baseline(frames: Frames, wanted: str | None = None) -> Baseline:
    """The norm with this label, in capitals or not; by default BN where it was run.

    Raises UserError, which lists the labels, when no run has the wanted one.
    """
    labels = frames.runs.sort_values(["norm_family", "norm"]).norm.drop_duplicates().tolist()
    by_name = {label.casefold(): label for label in reversed(labels)}
    if wanted is not None:
        label = wanted if wanted in labels else by_name.get(wanted.strip().casefold())
        if label is None:
            raise UserError(f"--baseline {wanted}: no run has this norm; there are {_listed(labels)}")
        return Baseline(label)
    if BN in labels:
        return Baseline(BN)
    note = f"{BN} was not run, so nothing is compared"
    if len(labels) > 1:
        note += f"; --baseline compares with one of {_listed(labels)}"
    return Baseline(None, f"{note}.")


def _listed(labels: list[str]) -> str:
    more = len(labels) - _LABELS_SHOWN
    return ", ".join(labels[:_LABELS_SHOWN]) + (f" and {more} more" if more > 0 else "")
