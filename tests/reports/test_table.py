"""Printed numbers taken apart again, and the best of them."""

import pytest

from reports.numbers import Printed, estimate_text, number, take_apart
from reports.stats import Estimate
from reports.tables.table import MAX_ROWS, Column, Table, cut_short, listed


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("71.20 ± 1.20", Printed("71.20", "1.20")),
        ("71.2 ± 1.2 (2 seeds)", Printed("71.2", "1.2", remark="2 seeds")),
        ("58.00 (1 seed)", Printed("58.00", remark="1 seed")),
        ("71.2 [−70.1, 1,072.3]", Printed("71.2", low="-70.1", high="1072.3")),
        ("0.50 [0.40, 0.70] (9 seeds)", Printed("0.50", low="0.40", high="0.70", remark="9 seeds")),
        ("1,234", Printed("1234")),
        ("−3.25", Printed("-3.25")),
        ("+0.12", Printed("+0.12")),
        ("4.10e+13", Printed("4.10e13")),
        ("1.20e−08 ± 3.00e−09", Printed("1.20e-08", "3.00e-09")),
        ("—", None),
        ("mixed hardware", None),
        ("2 of 3 (1 diverged)", None),
        ("nan", None),
        ("3 or 4", None),
    ],
)
def test_numbers_are_taken_apart(text: str, parts: Printed | None) -> None:
    assert take_apart(text) == parts


@pytest.mark.parametrize("value", [0.0, 71.204, -3.25, 123456.7, 4.1e13, 1.2e-8, -1.2e-8])
def test_what_is_written_is_read_again(value: float) -> None:
    printed = take_apart(number(value, 2 if abs(value) > 1e-3 else 9))
    assert printed is not None
    assert printed.value == pytest.approx(value, rel=1e-2)
    estimate = take_apart(estimate_text(Estimate(value, value - 2, value + 2, 2), 3, decimals=2))
    assert estimate is not None
    assert estimate.remark == "2 seeds"


def table_of(*cells: str, better: str = "higher", breaks: frozenset[int] = frozenset()) -> Table:
    columns = [Column("Norm", False), Column("Value", better=better)]  # type: ignore[arg-type]
    return Table("T", columns, [["x", cell] for cell in cells], breaks=breaks)


def test_the_best_is_by_direction_and_block() -> None:
    cells = ("1.0", "3.0 ± 9.9", "2.0", "−5.0", "—", "−4.0 (1 seed)")
    assert table_of(*cells, breaks=frozenset({3})).best == {(1, 1), (5, 1)}
    assert table_of(*cells, breaks=frozenset({3}), better="lower").best == {(0, 1), (3, 1)}
    assert table_of(*cells, better="neither").best == frozenset()


def test_what_prints_alike_is_equally_good() -> None:
    assert table_of("1.0", "3.0", "3.0").best == {(1, 1), (2, 1)}
    assert table_of("3.0", "3.0").best == frozenset()


def test_one_alone_is_the_best_of_nothing() -> None:
    assert table_of("3.0", "—").best == frozenset()
    assert table_of("3.0", "2.0", breaks=frozenset({1})).best == frozenset()


def test_a_table_cut_short_says_what_is_missing() -> None:
    assert cut_short(MAX_ROWS) == []
    (sentence,) = cut_short(10_000, ", what went wrong first")
    assert sentence.startswith("The first 200 of 10,000 rows, what went wrong first; results.csv")
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert listed(["a", "b"], most=2) == "a, b"
