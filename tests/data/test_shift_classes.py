"""Classes of a shifted data set find the network's outputs by name."""

from pathlib import Path

import pytest

from suite.data.shift_classes import match_classes
from suite.errors import UserError

NETWORK = tuple(f"n{number:04d}" for number in (7, 3, 9, 1, 5))
HERE = Path("/data/shift")


def test_names_decide_and_not_positions() -> None:
    match = match_classes(("n0001", "n0003", "n0005", "n0007", "n0009"), NETWORK, HERE)
    assert match.output_of_class_K.tolist() == [3, 1, 4, 0, 2]
    assert not match.is_subset


def test_a_part_of_the_classes_is_a_subset() -> None:
    match = match_classes(("n0005", "n0009"), NETWORK, HERE)
    assert match.output_of_class_K.tolist() == [4, 2]
    assert match.is_subset


def test_folders_that_are_numbers_are_outputs_and_not_sorted_as_strings() -> None:
    network = tuple(f"n{number:08d}" for number in range(1000))
    folders = tuple(sorted(str(number) for number in range(1000)))  # 0, 1, 10, 100, 101, …
    match = match_classes(folders, network, HERE)
    assert match.output_of_class_K.tolist() == [int(name) for name in folders]
    assert match_classes(("007", "12"), network, HERE).output_of_class_K.tolist() == [7, 12]
    # A network whose own classes are numbers is matched by name.
    assert match_classes(("1", "10"), ("0", "1", "10"), HERE).output_of_class_K.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (("n0001", "n0002", "n0004"), r"/data/shift: the network lacks 2 of its classes: n0002, n0004"),
        (
            ("cat", "dog"),
            r"none of its 2 classes \(cat, dog\) is among the network's 5 \(n0007, n0003, n0009, …\)",
        ),
        (("5", "6"), r"none of its 2 classes \(5, 6\)"),
        (("1", "01"), "two of its folders are the same class of the network"),
    ],
)
def test_classes_that_do_not_fit_are_refused(shift: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        match_classes(shift, NETWORK, HERE)
