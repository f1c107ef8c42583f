"""The part of a report on robustness: the answer in sentences, and its tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reports.findings.robustness import (
    NormRobustness,
    Prediction,
    by_norm,
    predictions,
    rows_at_test_time,
    shift_rows,
)
from reports.frames import CONTEXT, Frames
from reports.numbers import number
from reports.sentences import sentence
from reports.tables.robustness_tables import display_at_test_time, norm_display, prediction_display
from reports.tables.table import Table


@dataclass(frozen=True)
class RobustnessPart:
    """What is said of robustness. There is none without a run that was measured."""

    sentences: list[str]
    tables: list[Table]


def robustness_part(frames: Frames) -> RobustnessPart | None:
    """Return the part, or None where the robustness of no completed run was measured."""
    rows = shift_rows(frames)
    if rows.empty:
        return None
    norms, predicted = by_norm(rows), predictions(rows, CONTEXT)
    tables = [
        norm_display(norms),
        prediction_display(predicted),
        display_at_test_time(rows_at_test_time(frames)),
    ]
    return RobustnessPart(
        [*_about_norms(norms), *_about_prediction(predicted)],
        [table for table in tables if table is not None],
    )


def _about_norms(norms: Sequence[NormRobustness]) -> Iterator[str]:
    """Yield for each context which cell loses the least; `norms` begin with the least loss."""
    several = len({_where(one.cell) for one in norms}) > 1
    for context in dict.fromkeys(_where(one.cell) for one in norms):
        here = [one for one in norms if _where(one.cell) == context and one.share_lost is not None]
        if not here or here[0].share_lost is None:
            continue
        batches = len({one.cell["norm_batch_size"] for one in here}) > 1
        others = [
            f"{_name(one, batches)} {number(one.share_lost.mean, 1)} %" for one in here[1:] if one.share_lost
        ]
        where = context if several else ""
        yield sentence(
            "least_lost", name=_name(here[0], batches), lost=here[0].share_lost, others=others, where=where
        )


def _about_prediction(found: Sequence[Prediction]) -> Iterator[str]:
    for one in found:
        if one.correlation is not None:
            errors = [one.error[name] for name in ("esm", "constant", "confidence_lost")]
            where = _where(one.context) if len(found) > 1 else ""
            yield sentence("esm_predicts", correlation=one.correlation, errors=errors, where=where)


def _name(one: NormRobustness, with_batch: bool) -> str:
    return (
        f"{one.cell['norm']} at norm batch {one.cell['norm_batch_size']}"
        if with_batch
        else str(one.cell["norm"])
    )


def _where(cell: dict[str, object]) -> str:
    parts = [str(cell[axis]) for axis in ("arch", "data", "settings") if cell.get(axis)]
    return ", ".join(parts)
