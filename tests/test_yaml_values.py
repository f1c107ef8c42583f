"""YAML by the core schema of version 1.2, within bounds: what is read, and what is refused."""

from typing import Any

import pytest

from suite.yaml_values import MAX_DEPTH, YamlError, parse

pytestmark = pytest.mark.timeout(60)  # what is not bounded takes hours


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("12:00:00", "12:00:00"),
        ("1e3", 1000.0),
        ("0o17", 15),
        ("0x1F", 31),
        ("-12", -12),
        ("off", "off"),
        ("yes", "yes"),
        ("True", True),
        ("~", None),
        ("", None),
        ("2024-01-02", "2024-01-02"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("[1, 'a']", [1, "a"]),
        ("{1: a}", {"1": "a"}),
        ("{<<: {a: 1, b: 2}, b: 3}", {"a": 1, "b": 3}),
        ("=", "="),
    ],
)
def test_yaml_is_read_by_the_core_schema_of_version_1_2(text: str, value: Any) -> None:
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "sentence", "keys"),
    [
        ("a: 010", "write 10, or '010' in quotes", ("a",)),
        ("a: [1, -00]", "write 0, or '-00' in quotes", ("a", "1")),
        ("a: .inf", "expected a finite number, got .inf", ("a",)),
        ("a: -.INF", "finite", ("a",)),
        ("a: .nan", "finite", ("a",)),
        ("a: 1e999", "finite", ("a",)),
        ("a: 99999999999999999999999", "too large a number", ("a",)),
        (f"a: {'9' * 5000}", "too large a number", ("a",)),
        ("a: {b: 1, c: 2, b: 1}", "given twice", ("a", "b")),
        ("a: 1\n'a': 2", "given twice", ("a",)),
        ("a: !!python/object/apply:os.system [x]", "the tag python", ("a",)),
        ("a: !!set {x}", "the tag set", ("a",)),
        ("a: !mine 1", "the tag !mine", ("a",)),
        ("a: !!int x", "no value of the tag !!int", ("a",)),
        ('a: "\\0"', "control character U+0000", ("a",)),
        ('"\\x1b[1m": 1', "control character U+001B", ("\x1b[1m",)),
        ("a: &x [1, *x]", "refers to a value that contains it", ("a", "1")),
        ("? [1]\n: 2", "a key must be a word", ()),
        ("<<: 3", "<< takes a mapping", ()),
        ("a: [1", "not valid YAML", ()),
        ("a: 1\n---\nb: 2", "not valid YAML", ()),
        ("a: \x07", "not valid YAML", ()),
        ("\udcff", "not valid YAML", ()),
    ],
)
def test_what_no_field_has_a_use_for_is_refused(text: str, sentence: str, keys: tuple[str, ...]) -> None:
    with pytest.raises(YamlError) as refused:
        parse(text)
    assert sentence in str(refused.value)
    assert refused.value.keys == keys


@pytest.mark.parametrize("bracket", ["[", "{a: ", "- "])
def test_depth_is_bounded(bracket: str) -> None:
    parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for number in (MAX_DEPTH + 1, 80, 1_000_000 // len(bracket)):
        with pytest.raises(YamlError, match=f"nested deeper than {MAX_DEPTH} levels"):
            parse(bracket * number)
    with pytest.raises(YamlError, match="longer than 1,000,000 characters"):
        parse("[" * 1_000_001)


def test_what_aliases_repeat_is_bounded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(YamlError, match="more than 100,000 values"):
        parse("\n".join(lines))
