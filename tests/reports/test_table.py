"""Numbers as cells print them, and the best of a table."""

import pytest

from reports.numbers import EMPTY, Number, ascii_number, bracket_cell, estimate_cell, listed, number, p_cell
from reports.stats import Estimate
from reports.tables.table import MAX_ROWS, Cell, Column, Table, cut_short


@pytest.mark.parametrize(
    ("cell", "text", "mean"),
    [
        (Number(71.2, 2, half=1.2), "71.20 ± 1.20", "71.20"),
        (Number(71.2, 1, half=1.2, remark="3 seeds"), "71.2 ± 1.2 (3 seeds)", "71.2"),
        (Number(71.2, 1, both=(70.9, 71.5), remark="2 seeds"), "70.9 and 71.5 (2 seeds)", "71.2"),
        (Number(0.5, 1, both=(-1, 2), signed=True, unit="%"), "−1.0 and +2.0 %", "+0.5"),
        (Number(71.2, 1, bounds=(-70.1, 1072.3)), "71.2 [−70.1, 1,072.3]", "71.2"),
        (Number(1234), "1,234", "1234"),
        (Number(1234, grouped=False), "1234", "1234"),
        (Number(-3.25, 2, signed=True), "−3.25", "-3.25"),
        (Number(0.12, 2, signed=True), "+0.12", "+0.12"),
        (Number(4.1e13, 0), "4.10e+13", "4.10e13"),
        (Number(41 * 10**12), "41,000,000,000,000", "41000000000000"),
        (Number(1.2e-8, 10, half=3e-9), "1.20e−08 ± 3.00e−09", "1.20e-08"),
        (Number(0.35, 2, bounds=(0.3, 0.4), prefix="× "), "× 0.35 [0.30, 0.40]", "0.35"),
        (Number(90.1, 1, half=0.2, unit="%"), "90.1 ± 0.2 %", "90.1"),
    ],
)
def test_a_number_prints_all_of_its_parts(cell: Number, text: str, mean: str) -> None:
    assert (str(cell), cell.mean) == (text, mean)


@pytest.mark.parametrize("value", [0.0, 71.204, -3.25, 123456.7, 4.1e13, 1.2e-8, -1.2e-8])
def test_ascii_and_printed_numbers_have_the_same_digits(value: float) -> None:
    decimals = 2 if abs(value) > 1e-3 else 9
    printed = number(value, decimals).replace(",", "").replace("−", "-").replace("e+", "e")
    assert ascii_number(value, decimals) == printed


def test_the_remark_names_the_seeds_that_are_there() -> None:
    cell = estimate_cell(Estimate(71.204, 69.204, 73.204, 3), 4, decimals=2)
    assert isinstance(cell, Number)
    assert (cell.half, cell.remark) == (pytest.approx(2.0), "3 seeds")
    assert (
        str(estimate_cell(Estimate(71.204, 69.204, 73.204, 2), 3, decimals=2)) == "69.20 and 73.20 (2 seeds)"
    )
    assert str(estimate_cell(Estimate(71.204, 69.204, 73.204, 2), 2, decimals=2)) == "69.20 and 73.20"


def test_two_values_have_the_digits_of_the_larger_one() -> None:
    """Their mean may be zero, or nearly: it would have digits without end."""
    opposite = Estimate(-1e-9, -0.503, 0.503, 2)
    assert str(estimate_cell(opposite, 2, signed=True)) == "−0.503 and +0.503"
    assert str(bracket_cell(Estimate(0.5, 0.4, 0.625, 2), prefix="× ")) == "× 0.400 and × 0.625"
    assert str(bracket_cell(Estimate(0.5, None, None, 1))) == "0.500 (1 seed)"


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0004, "< 0.001"),
        (0.0012, "0.0012"),
        (0.0101, "0.01"),
        (0.0999, "0.1"),
        (0.384, "0.38"),
        (1.0, "1.00"),
    ],
)
def test_p_values(p: float, text: str) -> None:
    assert str(p_cell(p)) == text


def table_of(*cells: Cell, better: str = "higher", breaks: frozenset[int] = frozenset()) -> Table:
    columns = [Column("Norm", "text"), Column("Value", better=better)]  # type: ignore[arg-type]
    return Table("T", columns, [["x", cell] for cell in cells], breaks=breaks)


def test_the_best_is_by_direction_and_block() -> None:
    cells = (*(known(v) for v in (1, 3, 2, -5)), EMPTY, Number(-4, 1, bounds=(-4.2, -3.9)))
    assert table_of(*cells, breaks=frozenset({3})).best == {(1, 1), (5, 1)}
    assert table_of(*cells, breaks=frozenset({3}), better="lower").best == {(0, 1), (3, 1)}
    assert table_of(*cells, better="neither").best == frozenset()


def known(value: float, half: float = 0.4) -> Number:
    return Number(value, 1, half=half)


def test_the_best_is_told_apart_from_all_others_or_there_is_none() -> None:
    assert table_of(known(1.0), known(3.0), known(2.1)).best == {(1, 1)}
    assert table_of(known(1.0), known(3.0), known(2.3)).best == frozenset()  # 2.6 to 3.4, 1.9 to 2.7
    assert table_of(known(1.0, 9.9), known(3.0)).best == frozenset()
    # Neither one seed nor two have an interval.
    assert table_of(known(3.0), Number(1.0, 1, remark="1 seed")).best == frozenset()
    assert table_of(known(3.0), Number(1.0, 1, both=(0.9, 1.1))).best == frozenset()


def test_a_single_number_is_not_the_best() -> None:
    assert table_of(known(3.0), EMPTY).best == frozenset()
    assert table_of(known(3.0), known(2.0), breaks=frozenset({1})).best == frozenset()


def test_a_table_cut_short_says_what_is_missing() -> None:
    assert cut_short(MAX_ROWS) == []
    (sentence,) = cut_short(10_000, ", what went wrong first")
    assert sentence.startswith("The first 200 of 10,000 rows, what went wrong first; results.csv")
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert listed(["a", "b"], most=2) == "a, b"
