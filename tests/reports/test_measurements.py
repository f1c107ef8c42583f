"""Two ways of reading measurements that must give the same: all at once, and line by line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reports.collect.measurements as measurements
from reports.collect.measurements import Chunk, Text, read_texts
from suite.paths import RunPaths
from tests.helpers.records import expand_runs, write_run


def rows(chunk: Chunk) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return (
        sorted(chunk.curves.to_pylist(), key=lambda row: row["run"]),
        sorted(chunk.probes.to_pylist(), key=lambda row: row["run"]),
    )


def written(tmp_path: Path) -> list[Text]:
    folders = [write_run(tmp_path, run) for run in expand_runs(batch={"global_batch_size": 4}, seeds=[0])]
    return [
        Text(number, RunPaths(f).measurements.read_bytes(), len(json.loads(RunPaths(f).layers.read_text())))
        for number, f in enumerate(folders)
    ]


def test_both_ways_read_what_training_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = written(tmp_path)
    together = measurements._read_together(texts)
    assert together is not None
    assert rows(read_texts(texts)) == rows(together)
    monkeypatch.setattr(measurements, "_read_together", lambda texts: None)
    assert rows(read_texts(texts)) == rows(together)
    assert {row["metric"] for row in together.probes.to_pylist()} >= {"esm_mu", "esm_sigma"}


GOOD = '{"metric": "loss", "value": 1.5, "epoch": 1, "step": 7, "split": "val"}\n'


@pytest.mark.parametrize(
    ("last", "num_values", "note"),
    [
        ('{"metric": "loss", "value": 2, "epoch": 2, "step": 8}\n', 2, None),
        ('{"metric": "loss", "value": 2.0, "epoch": 2, "step": 8}', 2, None),  # being written
        ('{"metric": "loss", "value": "nan", "epoch": 2, "step": 8}\n', 2, None),
        ('{"metric": "loss", "value": NaN, "epoch": 2, "step": 8}\n', 2, None),
        ('{"metric": "loss", "value": "-inf", "epoch": 2, "step": 8}\n', 2, None),
        ('{"metric": "loss", "value": 2.0, "ep', 1, "1 damaged lines left out"),
        ('{"metric": "loss", "value": 2.0, "epoch": 2}\n', 1, "1 damaged lines left out"),
        ('{"metric": "loss", "value": 2.0, "step": 2}\n', 1, "1 damaged lines left out"),
        ('{"value": 2.0, "epoch": 2, "step": 8}\n', 1, "1 damaged lines left out"),
        (GOOD.strip() + GOOD, 1, "1 damaged lines left out"),
        ("\n\n" + GOOD, 2, None),
        ("[1, 2]\n", 1, "1 damaged lines left out"),
        ('{"metric": "loss", "value": {}, "epoch": 2, "step": 8}\n', 1, "only the first 1 values"),
        ('{"metric": "loss", "value": null, "epoch": 2, "step": 8}\n', 1, "only the first 1 values"),
        ('{"metric": 3, "value": 1.0, "epoch": 2, "step": 8}\n', 1, "only the first 1 values"),
        ('{"metric": "loss", "value": 1.0, "epoch": "2", "step": 8}\n', 1, "only the first 1 values"),
        (
            '{"metric": "loss", "value": 1.0, "epoch": 2, "step": 8, "split": 1}\n',
            1,
            "only the first 1 values",
        ),
        ('{"metric": "esm_mu", "value": ["x"], "epoch": 2, "step": 8}\n', 1, "only the first 1 values"),
    ],
)
def test_a_line_that_is_not_plain(last: str, num_values: int, note: str | None) -> None:
    chunk = read_texts([Text(0, GOOD.encode(), 2), Text(1, (GOOD + last).encode(), 2)])
    assert chunk.curves.num_rows == 1 + num_values
    assert note is None if 1 not in chunk.notes else str(note) in chunk.notes[1]
    assert 0 not in chunk.notes


@pytest.mark.parametrize(("values", "kept"), [("[1.0, 2.0, 3.0]", [1.0, 2.0]), ("[1.0]", [1.0]), ("[]", [])])
def test_values_for_other_layers_than_there_are(values: str, kept: list[float]) -> None:
    line = f'{{"metric": "esm_mu", "value": {values}, "epoch": 1, "step": 7, "split": "val"}}\n'
    (probe,) = read_texts([Text(0, (GOOD + line).encode(), 2)]).probes.to_pylist()
    assert probe["values"] == kept


def test_damaged_bytes_of_one_run_leave_the_others_alone() -> None:
    chunk = read_texts([Text(0, GOOD.encode(), 0), Text(1, b"\x00\xff\n", 0), Text(2, GOOD.encode(), 0)])
    assert chunk.curves["run"].to_pylist() == [0, 2]
    assert chunk.notes == {1: "1 damaged lines left out"}


number = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**31), 2**31)
line = st.fixed_dictionaries(
    {
        "metric": st.sampled_from(["loss", "esm_mu", 'ünï"c\\ode']),
        "value": number | st.lists(number, min_size=2, max_size=2),
        "epoch": st.integers(0, 1000),
        "step": st.integers(0, 2**40),
    },
    optional={"split": st.sampled_from(["train", "val", None]), "more": st.integers()},
)


@settings(max_examples=60)
@given(st.lists(st.lists(line, max_size=6), min_size=1, max_size=4))
def test_both_ways_read_any_lines_alike(runs: list[list[dict[str, Any]]]) -> None:
    texts = [
        Text(n, "".join(json.dumps(one) + "\n" for one in lines).encode(), 2) for n, lines in enumerate(runs)
    ]
    together = measurements._read_together([text for text in texts if text.data])
    by_line = [measurements._read_by_lines(text) for text in texts]
    expected = [[row for chunk in by_line for row in rows(chunk)[part]] for part in (0, 1)]
    if together is not None:
        assert rows(together) == tuple(expected)
    assert rows(read_texts(texts)) == tuple(expected)
