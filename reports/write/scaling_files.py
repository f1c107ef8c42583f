"""Prints how a run scales, and writes it as Markdown, CSV and a chart."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
from rich.console import Console

from reports.figures.scaling import scaling_spec
from reports.findings.scaling import PARTS, Scaling
from reports.findings.scaling_verdict import verdict_sentences
from reports.findings.slow_nodes import slowest_rank
from reports.stats import Estimate
from reports.tables.cell_tables import print_table
from reports.tables.scaling_table import FOR_A_TERMINAL, scaling_table
from reports.write.drawing import obstacle_to_drawing
from reports.write.markdown import fill
from suite.errors import UserError
from suite.files import write_atomically

NAME = "scaling"
# Of a point, by the names that they have in JSON.
_ESTIMATES = {"images_per_s": "speed", "speedup": "speedup", "efficiency": "efficiency"}
_IN_CSV = ("images_per_s", "step_time_p50_ms", "step_time_drift", *PARTS)


def print_scaling(console: Console, scaling: Scaling) -> None:
    """The table in parts, its notes, and last the verdict."""
    table = scaling_table(scaling)
    for part in FOR_A_TERMINAL:
        others = [name for another in FOR_A_TERMINAL if another is not part for name in another]
        print_table(console, table, others)
    for note in table.notes:
        console.print(note, style="dim", markup=False, highlight=False)
    for text in verdict_sentences(scaling):
        console.print(text, style="bold", markup=False, highlight=False)


def scaling_as_plain(scaling: Scaling) -> dict[str, Any]:
    """Return for JSON what `print_scaling` prints: each number of nodes, the law, all cells, the verdict."""
    points = [
        {
            "nodes": point.nodes,
            "ranks": point.ranks,
            **{name: _estimate(getattr(point, attribute)) for name, attribute in _ESTIMATES.items()},
            "ideal_images_per_s": point.ideal_images_per_s,
        }
        for point in scaling.points
    ]
    law = scaling.fit and {
        "name": scaling.fit.law.name,
        "serial_share": scaling.fit.serial_share,
        "predicted": {"nodes": scaling.next_nodes, "images_per_s": _estimate(scaling.prediction)},
    }
    return {
        "title": scaling.title,
        "mode": scaling.mode,
        "points": points,
        "law": law,
        "cells": json.loads(_rows(scaling).to_json(orient="records")),
        "verdicts": verdict_sentences(scaling),
    }


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)


def write_scaling(scaling: Scaling, out: Path) -> list[Path]:
    """Write scaling.md, scaling.csv and scaling.svg into `out`; their paths. The chart needs a timed cell.

    Raises UserError when they cannot be written.
    """
    obstacle = obstacle_to_drawing()
    has_chart = bool(scaling.timed) and obstacle is None
    page = {"table": scaling_table(scaling), "verdicts": verdict_sentences(scaling), "title": scaling.title}
    files = {
        f"{NAME}.md": fill("scaling.md.j2", **page, has_chart=has_chart, obstacle=obstacle),
        f"{NAME}.csv": _csv(scaling),
    }
    if has_chart:
        files[f"{NAME}.svg"] = _svg(scaling)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_atomically(out / name, text)
    except OSError as error:
        raise UserError(f"{out}: the scaling cannot be written: {error.strerror}") from None
    return [out / name for name in files]


def _svg(scaling: Scaling) -> str:
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    svg: str = vl_convert.vegalite_to_svg(scaling_spec(scaling), vl_version=version)
    return svg


def _csv(scaling: Scaling) -> str:
    text = io.StringIO()
    _rows(scaling).to_csv(text, index=False)
    return text.getvalue()


def _rows(scaling: Scaling) -> pd.DataFrame:
    """A row for each cell, whatever became of it."""
    rows = []
    for one in scaling.timings:
        values = one.values or {}
        slowest = slowest_rank(one.rank_times) if one.rank_times else None
        rows.append(
            {
                "nodes": one.nodes,
                "repeat": one.repeat,
                "ranks": one.ranks or None,
                "state": one.state,
                "reason": one.reason,
                "ran_on": one.places,
                **{name: values.get(name) for name in _IN_CSV},
                "epoch_end_time_s": values.get("epoch_end_time_s"),
                "slowest_rank": slowest and slowest.rank,
                "slowest_rank_node": slowest and slowest.node,
                "slowest_rank_ratio": slowest and slowest.ratio,
                "folder": str(one.folder),
            }
        )
    return pd.DataFrame(rows).astype({"ranks": "Int64", "slowest_rank": "Int64"})
