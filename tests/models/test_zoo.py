"""Networks of each family of timm and torchvision are converted, or refused and untouched, as docs/ says."""

import pytest

from tests.helpers import zoo


def test_the_table_is_of_the_installed_versions() -> None:
    assert f"every architecture of {zoo.VERSIONS} " in zoo.TABLE.read_text(), "run `make networks`"


@pytest.mark.parametrize(("family", "name", "is_converted"), zoo.examples())
def test_a_network_of_the_family(family: str, name: str, is_converted: bool) -> None:
    outcome = zoo.tried(name)
    assert outcome is not None
    assert outcome.family == family
    assert outcome.is_converted is is_converted
    assert outcome.misplaced == ()
    assert outcome.missed == ()
