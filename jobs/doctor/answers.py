"""Nodes' answers in words, for those who judge them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jobs.doctor.nodes import Node

Answer = dict[str, Any]
Fault = tuple[str, str]  # a node, and what is wrong there


def each(nodes: Sequence[Node], probe: str, fault: Callable[[Answer], str]) -> list[Fault]:
    """The nodes whose answer to a probe has a fault. Who gave no answer is `belongings.start`'s business."""
    given = ((node.name, node.answers[probe]) for node in nodes if probe in node.answers)
    return [(name, text) for name, answer in given if (text := fault(answer))]


def error_of(answer: Answer) -> str:
    """Why a probe failed; empty when it did not."""
    return str(answer.get("error", ""))


def by_text(faults: Iterable[Fault]) -> str:
    """`n1, n2: refused; n3: no such host`."""
    groups: dict[str, list[str]] = {}
    for node, text in faults:
        groups.setdefault(text, []).append(node)
    return "; ".join(f"{', '.join(nodes)}: {text}" for text, nodes in groups.items())
