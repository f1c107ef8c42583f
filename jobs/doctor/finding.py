"""The doctor's vocabulary: answers of probes, the case that they make up, and the findings of checks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # nodes import this module, and may lack the packages that clusters need
    from jobs.cluster.clusters import LocalCluster, SlurmCluster

# warning: runs will train, but something is lost; problem: runs will not train, or not correctly;
# unknown: the check could not be made.
Severity = Literal["ok", "warning", "problem", "unknown"]
# What was found, and how to fix it where the severity is not ok.
Verdict = tuple[Severity, str] | tuple[Severity, str, str]
Answer = dict[str, Any]  # plain JSON; {"error": REASON} where the probe failed


@dataclass(frozen=True)
class Finding:
    """The result of one check. `fix` says what to do; it is empty where all is well."""

    check: str
    verdict: Severity
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Request:
    """What the nodes check: passed to their program as JSON."""

    folder: str  # the shared folder probe's, in the output folder
    token: str
    data: list[str]
    output_dir: str
    snapshot: str
    python: str
    shm_mib: int = 0  # what the loaders of an experiment need of shared memory; 0: not known
    bandwidth: bool = False  # whether to load network and storage, to see how fast they are
    tasks_per_node: int = 1  # ranks of a run on a node


NodeProbe = Callable[[Request, Mapping[str, Answer]], Answer | None]


@dataclass
class NodeAnswers:
    """The answers of one node, by probe. `clock_ahead_s` is its clock minus ours."""

    name: str
    answers: dict[str, Answer] = field(default_factory=dict)
    clock_ahead_s: float | None = None


@dataclass(frozen=True)
class Case:
    """Everything that checks decide from: the cluster, and the answers so far.

    `here` holds the login machine's answers by probe. `message` is what the nodes' programs wrote to stderr.
    """

    cluster: "SlurmCluster | LocalCluster"
    here: dict[str, Answer] = field(default_factory=dict)
    nodes: Sequence[NodeAnswers] = ()
    request: Request = Request("", "", [], "", "", "")
    message: str = ""

    @property
    def slurm(self) -> "SlurmCluster":
        """The cluster, for topics that are asked of Slurm clusters only."""
        assert self.cluster.scheduler == "slurm"
        return self.cluster

    @property
    def config(self) -> dict[str, str]:
        """Slurm's configuration, as `scontrol show config` prints it."""
        config: dict[str, str] = self.here["controller"]["config"]
        return config

    def answers(self, probe: str) -> dict[str, Answer]:
        """The answers to one probe, by node; nodes that did not answer are left out."""
        return {node.name: node.answers[probe] for node in self.nodes if probe in node.answers}

    def faults(self, probe: str, fault: Callable[[Answer], str | None] = lambda answer: None) -> str:
        """What is wrong at which nodes: the probe's error, or the text that `fault` returns."""
        found = {name: a.get("error") or fault(a) for name, a in self.answers(probe).items()}
        return by_text((name, text) for name, text in found.items() if text)


def by_text(faults: Iterable[tuple[str, str]]) -> str:
    """Groups nodes by their fault: `n1, n2: refused; n3: no such host`."""
    groups: dict[str, list[str]] = {}
    for node, text in faults:
        groups.setdefault(text, []).append(node)
    return "; ".join(f"{', '.join(nodes)}: {text}" for text, nodes in groups.items())


def between(low: float, high: float) -> str:
    """Three digits of both, or of one where they print alike: `310 to 340`."""
    texts = dict.fromkeys(f"{value:.3g}" for value in (low, high))
    return " to ".join(texts)


@dataclass(frozen=True)
class Topic:
    """A group of related checks: probes ask, each for one answer, and checks turn answers into verdicts."""

    checks: Mapping[str, Callable[[Case], Iterator[Verdict]]]
    # On the login machine. Topics of the nodes are asked here after the nodes have answered.
    here: Mapping[str, Callable[[Case], Answer]] = field(default_factory=dict)
    # On each node, given its earlier answers; None where there is nothing to ask. They import only the
    # standard library, except where the other packages are what is examined.
    on_nodes: Mapping[str, NodeProbe] = field(default_factory=dict)
    # Checks whose problem keeps every job from starting, so that the nodes cannot be asked.
    blocking: frozenset[str] = frozenset()

    def judge(self, case: Case) -> Iterator[Finding]:
        """Yield the findings of each check in turn."""
        for name, check in self.checks.items():
            for verdict, found, *fix in check(case):
                yield Finding(name, verdict, found, *fix)
