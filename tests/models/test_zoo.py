"""A network of each family of timm and torchvision is converted, or refused and untouched, as docs/ says."""

import pytest

from tests.helpers import zoo


def test_the_table_is_of_the_installed_versions() -> None:
    assert f"every architecture of {zoo.VERSIONS} " in zoo.TABLE.read_text(), "run `make networks`"


@pytest.mark.parametrize(("family", "row"), zoo.rows().items(), ids=list(zoo.rows()))
def test_a_network_of_the_family(family: str, row: tuple[int, int, str]) -> None:
    converted, refused, example = row
    outcome = zoo.tried(example)
    assert outcome is not None
    assert outcome.family == family
    assert outcome.is_converted is (converted >= refused)
    assert outcome.misplaced == ()
