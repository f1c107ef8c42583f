"""The doctor's vocabulary: answers of probes, the case that they make up, and the findings of judges."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # nodes import this module, and may lack the packages that clusters need
    from jobs.cluster.clusters import LocalCluster, SlurmCluster

Severity = Literal["ok", "warning", "problem", "unknown"]
Answer = dict[str, Any]  # plain JSON; {"error": REASON} where the probe failed
Fault = tuple[str, str]  # the name of a node, and what is wrong there


@dataclass(frozen=True)
class Finding:
    """The result of one check. `fix` says what to do; it is empty where all is well."""

    check: str
    verdict: Severity
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing needs to be done."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, fix: str) -> Finding:
    """Runs will train, but something is lost."""
    return Finding(check, "warning", found, fix)


def problem(check: str, found: str, fix: str) -> Finding:
    """Runs will not train, or not correctly."""
    return Finding(check, "problem", found, fix)


def unknown(check: str, found: str, fix: str) -> Finding:
    """The check could not be made."""
    return Finding(check, "unknown", found, fix)


@dataclass(frozen=True)
class Request:
    """What the nodes check: passed to their program as JSON."""

    folder: str  # the shared folder probe's, in the output folder
    token: str
    data: list[str]
    output_dir: str
    snapshot: str
    python: str


@dataclass
class NodeAnswers:
    """The answers of one node, by probe. `clock_ahead_s` is its clock minus ours."""

    name: str
    answers: dict[str, Answer] = field(default_factory=dict)
    clock_ahead_s: float | None = None


@dataclass(frozen=True)
class Case:
    """Everything that judges decide from: the cluster, and the answers so far.

    `here` holds the login machine's answers by probe. `message` is what the nodes' programs wrote to stderr.
    """

    cluster: "SlurmCluster | LocalCluster"
    here: dict[str, Answer] = field(default_factory=dict)
    nodes: Sequence[NodeAnswers] = ()
    request: Request = Request("", "", [], "", "", "")
    message: str = ""

    @property
    def slurm(self) -> "SlurmCluster":
        """The cluster, for topics that are asked of Slurm clusters only. Raises TypeError for another."""
        if self.cluster.scheduler != "slurm":
            raise TypeError(f"{self.cluster.name} is not a Slurm cluster")
        return self.cluster

    @property
    def config(self) -> Mapping[str, str]:
        """Slurm's configuration, as `scontrol show config` prints it."""
        config: Mapping[str, str] = self.here["controller"]["config"]
        return config

    def answers(self, probe: str) -> dict[str, Answer]:
        """The answers to one probe, by node; nodes that did not answer are left out."""
        return {node.name: node.answers[probe] for node in self.nodes if probe in node.answers}

    def faults(self, probe: str, fault: Callable[[Answer], str]) -> list[Fault]:
        """The nodes for whose answer `fault` returns a text. Missing answers are `python`'s business."""
        return [(name, text) for name, answer in self.answers(probe).items() if (text := fault(answer))]


def error_of(answer: Answer) -> str:
    """Returns why a probe failed; empty if it did not."""
    return str(answer.get("error", ""))


def by_text(faults: Iterable[Fault]) -> str:
    """Groups nodes by their fault: `n1, n2: refused; n3: no such host`."""
    groups: dict[str, list[str]] = {}
    for node, text in faults:
        groups.setdefault(text, []).append(node)
    return "; ".join(f"{', '.join(nodes)}: {text}" for text, nodes in groups.items())


@dataclass(frozen=True)
class Topic:
    """A group of related checks: probes ask, each for one answer, and `judge` turns answers into findings.

    Topics of the `login` machine are asked of Slurm clusters only, before any job starts. Topics of the
    `nodes` are asked of this machine, too, when it is the cluster.
    """

    where: Literal["login", "nodes"]
    judge: Callable[[Case], Iterator[Finding]]
    # On the login machine. Topics of the nodes are asked here after the nodes have answered.
    here: Mapping[str, Callable[[Case], Answer]] = field(default_factory=dict)
    # On each node, given its earlier answers; None where there is nothing to ask. They import only the
    # standard library, except where the other packages are what is examined.
    on_nodes: Mapping[str, Callable[[Request, Mapping[str, Answer]], Answer | None]] = field(
        default_factory=dict
    )
    # Checks whose problem keeps every job from starting, so that the nodes cannot be asked.
    blocking: frozenset[str] = frozenset()
    # Where one of its probes fails, the later topics of the login machine are not asked.
    is_required: bool = False
