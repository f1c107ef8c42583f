"""The part of a report on robustness: the answer in sentences, and its tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from reports.findings.robustness import (
    NormRobustness,
    Prediction,
    by_norm,
    less_than,
    predictions,
    rows_at_test_time,
    shift_rows,
)
from reports.frames import CONTEXT, Frames
from reports.numbers import listed, number, plural
from reports.sentences import sentence
from reports.tables.robustness_tables import (
    display_at_test_time,
    norm_display,
    prediction_display,
    shift_display,
)
from reports.tables.table import Table


@dataclass(frozen=True)
class RobustnessPart:
    """What is said of robustness. There is none without a run that was measured."""

    sentences: list[str]
    tables: list[Table]


def robustness_part(frames: Frames) -> RobustnessPart | None:
    """Return the part, or None where the robustness of no completed run was measured."""
    rows, malformed = shift_rows(frames), frames.robustness[1]
    if rows.empty and not malformed:
        return None
    norms, predicted = by_norm(rows), predictions(rows, CONTEXT)
    tables = [
        norm_display(norms),
        prediction_display(predicted),
        display_at_test_time(rows_at_test_time(frames)),
        shift_display(rows),
    ]
    sentences = [*_about_norms(norms, rows), *_about_prediction(predicted)]
    if malformed:
        what = f"robustness.json of {plural(len(malformed), 'run')}"
        sentences.append(f"{what} cannot be read, and is left out: {listed(malformed)}.")
    return RobustnessPart(sentences, [table for table in tables if table is not None])


def _about_norms(norms: Sequence[NormRobustness], rows: pd.DataFrame) -> Iterator[str]:
    """Yield for each context which cell loses the least, and by how much less than the next."""
    several = len({_where(one.cell) for one in norms}) > 1
    for context in dict.fromkeys(_where(one.cell) for one in norms):
        here = [one for one in norms if _where(one.cell) == context and one.share_lost is not None]
        if not here or here[0].share_lost is None:
            continue
        batches = len({one.cell["norm_batch_size"] for one in here}) > 1
        others = [
            f"{_name(one, batches)} {number(one.share_lost.mean, 1)} %" for one in here[1:] if one.share_lost
        ]
        less = less_than(rows, here[0].cell, here[1].cell) if len(here) > 1 else None
        yield sentence(
            "least_lost",
            name=_name(here[0], batches),
            lost=here[0].share_lost,
            others=others,
            less=less,
            where=context if several else "",
        )


def _about_prediction(found: Sequence[Prediction]) -> Iterator[str]:
    for one in found:
        if one.correlation is not None:
            errors = [one.error[name] for name in ("esm", "constant", "confidence_lost")]
            where = _where(one.context) if len(found) > 1 else ""
            yield sentence("esm_predicts", correlation=one.correlation, errors=errors, where=where)


def _name(one: NormRobustness, with_batch: bool) -> str:
    norm = str(one.cell["norm"])
    return f"{norm} at norm batch {one.cell['norm_batch_size']}" if with_batch else norm


def _where(cell: dict[str, object]) -> str:
    parts = [str(cell[axis]) for axis in ("arch", "data", "settings") if cell.get(axis)]
    return ", ".join([*parts, f"global batch {cell['global_batch_size']}"])
