"""Per-layer values over the layers that both sides of a comparison have, whatever else was run."""

from collections.abc import Callable, Iterator

import pandas as pd

from reports.frames import Frames

# The rows of one set of layers (run, position, value) to a number for each run.
Measure = Callable[[pd.DataFrame], pd.Series]


def over_shared_layers(frames: Frames, baseline: str, metric: str, measure: Measure) -> pd.DataFrame:
    """A per-layer metric of completed runs, over the BN layers that a norm and the baseline both have.

    Columns: run, rival, value. A run of another norm has one line, with its own norm as `rival`; a run of
    the baseline one for each norm that it is compared with, since each shares other layers with it.
    """
    runs = frames.completed
    found = frames.layers.loc[frames.layers.metric == metric, ["run", "layer", "position", "value"]]
    found = found.astype({"value": float}).merge(runs[["run", "arch", "norm"]], on="run")
    by_arch = {str(arch): rows for arch, rows in found.groupby("arch", sort=False)}
    lines = [runs[["run", "norm"]].head(0).assign(value=0.0).rename(columns={"norm": "rival"})]
    for arch, layers, rivals in _shared(frames, baseline):
        rows = by_arch.get(arch, found.head(0))
        here = rows[rows.norm.isin([baseline, *rivals])]
        here = here[here.layer.isin(layers)]
        of_run = measure(here).rename("value").rename_axis("run").reset_index()
        of_run = of_run.merge(runs[["run", "norm"]], on="run").rename(columns={"norm": "rival"})
        is_base = of_run.rival == baseline
        for_each = of_run[is_base].drop(columns="rival").merge(pd.DataFrame({"rival": rivals}), how="cross")
        lines += [of_run[~is_base], for_each[["run", "rival", "value"]]]
    return pd.concat(lines, ignore_index=True)


def mean_over_layers(rows: pd.DataFrame) -> pd.Series:
    """A Measure: the mean; a NaN layer makes the run's mean NaN."""
    values = rows.groupby("run").value
    return values.mean().where(values.count() == values.size())


def _shared(frames: Frames, baseline: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Arch, layers that are shared, and the norms that share just these with the baseline."""
    for arch, variants in frames.bn_layers.items():
        norms: dict[tuple[str, ...], list[str]] = {}
        for norm in (norm for norm in variants if norm != baseline):
            names = set(variants[norm])
            shared = tuple(name for name in variants.get(baseline, ()) if name in names)
            norms.setdefault(shared, []).append(norm)
        yield from ((arch, list(layers), rivals) for layers, rivals in norms.items() if layers)
