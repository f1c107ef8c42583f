"""Damages configs at random: replaces values and keys, in files and in overrides, by what people mistype."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import yaml

EXPERIMENT = {
    "name": "mine",
    "model": {
        "arch": "small_resnet11",
        "norm": [{"kind": "bn"}, {"kind": "xbn", "position": "p2", "stages": [1]}],
    },
    "data": {
        "name": "fashion-mnist-7k",
        "image_size": 28,
        "crop_area": [0.5, 1.0],
        "flip": True,
        "path": None,
    },
    "batch": {"global_batch_size": 64, "batch_size_per_gpu": 32, "norm_batch_size": [4, 32]},
    "recipe": {"epochs": 4, "lr": 0.1, "schedule": "step", "milestones": [1, 2], "nesterov": False},
    "measure": {"probe_every_epochs": 2, "tid": True},
    "system": {"device": "cpu", "collective_timeout_s": 60.0},
    "seeds": [0, 1],
}
BASE = {**EXPERIMENT, "model": {"arch": "small_resnet11"}, "batch": {"global_batch_size": 64}}
STUDY = {
    "experiment": "base.yaml",
    "overrides": ["recipe.momentum=0.8"],
    "space": {
        "model.norm": {"kind": "grid", "values": [{"kind": "bn"}, {"kind": "gn", "num_groups": 8}]},
        "batch.norm_batch_size": {"kind": "grid", "values": [4, 64], "when": {"model.norm.kind": "bn"}},
        "recipe.weight_decay": {"kind": "loguniform", "low": 1e-5, "high": 1e-3},
        "recipe.lr": {
            "kind": "scaled",
            "of": "recipe.weight_decay",
            "reference": 1e-4,
            "value": 0.1,
            "rules": ["sqrt"],
        },
    },
    "num_samples": 2,
    "sampling_seed": 3,
    "seeds": [0],
    "objectives": [{"metric": "top1_percent"}, {"metric": "learning_rate", "mode": "min"}],
    "scheduler": {"kind": "asha", "grace_epochs": 1, "reduction_factor": 4},
    "search": {"kind": "all"},
    "budget": {"rank_hours": 2.5, "wall_hours": 1},
    "trials": {"cluster": "local", "at_a_time": 2, "timeout_s": 3600},
    "margin_points": 1.0,
}
CLUSTER = {
    "scheduler": "slurm",
    "partition": "gpu",
    "time": "12:00:00",
    "nodes": 2,
    "gpus_per_node": "a100:4",
    "cpus_per_task": 4,
    "mem": "64G",
    "array_parallelism": 3,
    "signal_delay_s": 60,
    "additional_parameters": {"exclusive": True, "nice": 5},
    "setup": ["module load cuda", "export A=${B}"],
    "environment": {"NCCL_DEBUG": "WARN"},
    "python": "~/venv/bin/python",
    "jobs_folder": "/tmp/jobs",
}
# As they are typed: the text goes into the file as it is.
VALUES = (
    *(
        "~",
        "null",
        "''",
        "off",
        "yes",
        "true",
        "false",
        "0",
        "-1",
        "1",
        "2.5",
        "1e3",
        "1e400",
        ".inf",
        "-.nan",
        "010",
    ),
    *(
        "1:30",
        "12:00:00",
        "0x1F",
        "9" * 30,
        "'" + "9" * 400 + "'",
        "1e308",
        "1e-320",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "[1, 2]",
    ),
    *(
        "[null]",
        "[true]",
        "{kind: bn}",
        "{kind: }",
        "{kind: [bn]}",
        "{kind: {kind: bn}}",
        "{a: 1}",
        "bn",
        "grid",
        "asha",
    ),
    *(
        "!!set {a}",
        "!!python/name:os.system",
        "!x 1",
        "&a [*a]",
        "*b",
        "<<",
        "'<<'",
        "???",
        "'???'",
        "'${'",
        "'${x}'",
    ),
    *(
        "'${oc.env:NOT_SET}'",
        "'${oc.env:HOME}'",
        "'${model}'",
        "'${foo:1}'",
        "'\\${x}'",
        "2024-01-01",
        '"\\0"',
        '"\\e[1m"',
    ),
    *(
        '"a\\nb"',
        "é漢😀",
        "[" * 40 + "]" * 40,
        "[1",
        "a: b: c",
        "`",
        "@x",
        "%",
        "|",
        "- x",
        "\t",
        "'~no-such-user/x'",
    ),
    *(
        "$NOT_SET/x",
        "x" * 300,
        "/dev/null",
        "..",
        "a/b",
        "[0.1, 0.2]",
        "[[1], [2]]",
        "{1: 2}",
        "{null: 1}",
        "{? [1] : 2}",
    ),
)
KEYS = (
    "kind",
    "vlaues",
    "",
    "a.b",
    "1",
    "null",
    "lr",
    "<<",
    "'a b'",
    "x" * 100,
    "'[0]'",
    '"\\n"',
    "norm",
    "é",
)
# Of pydantic, OmegaConf and Python, which a user need not know.


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where every part of a nested value is."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_of(item, (*path, key))


def damaged(content: dict[str, Any], chance: random.Random) -> str:
    """Return the YAML of a config with one to three faults."""
    raw: dict[str, str] = {}

    def stand_in(choices: tuple[str, ...]) -> str:
        raw[name := f"RAW{len(raw)}RAW"] = chance.choice(choices)
        return name

    content = copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        path = chance.choice(list(paths_of(content)))
        above: Any = content
        for part in path[:-1]:
            above = above[part]
        last = path[-1]
        fault = chance.choice(("value", "value", "value", "drop", "key", "typo", "wrap", "swap"))
        if fault == "drop":
            del above[last]
        elif fault in ("key", "typo") and isinstance(above, dict):
            typo = f"{str(last)[1:2]}{str(last)[:1]}{str(last)[2:]}"
            above[typo if fault == "typo" else stand_in(KEYS)] = above.pop(last)
        elif fault == "wrap":
            above[last] = chance.choice(
                ([above[last]], {"kind": above[last]}, [above[last]] * 2, str(above[last]))
            )
        elif fault == "swap":
            other: Any = content
            for part in chance.choice(list(paths_of(content))):
                other = other[part]
            above[last] = copy.deepcopy(other)
        else:
            above[last] = stand_in(VALUES)
        if not content:
            break
    text = yaml.safe_dump(content, sort_keys=False, width=10_000, default_flow_style=chance.random() < 0.2)
    for name, typed in raw.items():
        text = text.replace(name, typed)
    return chance.choice(
        (text,) * 20 + (text[: chance.randrange(len(text) + 1)], f"{text}---\n{text}", f"- {text}")
    )


def override(content: dict[str, Any], chance: random.Random) -> str:
    """Return an override of some field, or of none, by some value, or by none."""
    parts = [str(part) for part in chance.choice(list(paths_of(content)))]
    if chance.random() < 0.2:
        parts.insert(chance.randrange(len(parts) + 1), chance.choice(KEYS))
    sign = chance.choice(("=",) * 12 + ("", "==", ":", " = "))
    return f"{'.'.join(parts)}{sign}{chance.choice(VALUES)}"
