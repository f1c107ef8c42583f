"""Damaged configs: whatever is typed, it is read, or refused in a sentence that names the file and the key.

Experiments, studies, clusters and overrides are damaged at random, by a fixed seed: wrong types, typos in
keys, missing and swapped sections, odd YAML. The command line is called in this process.
"""

import random
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cluster import slurm_commands
from tests.helpers.command_line import shiftbench
from tests.helpers.config_damage import BASE, CLUSTER, EXPERIMENT, STUDY, damaged, override
from tests.helpers.srun import with_srun

WORDS = re.compile(
    r"pydantic|dictionary|valid (string|integer|number|tuple|list)|[Ii]nput should|Errno|NoneType|<class|"
    r"suite\.specs|[Oo]mega[Cc]onf|full_key|Value error|argument|KeyError|\bdict\b|\btuple\b|\bstr\b|\bint\b"
)
# A file that is no YAML has a line and no key.
WHOLE = re.compile(
    r"(:\d+)?: (not valid YAML|nested deeper|expected a mapping with the keys of|no such file|is a)"
)
KEY = r"('[^']*'|[^\s:'])+"
KEYED = re.compile(
    rf"(:\d+)?: (override .+?: )?({KEY}(, {KEY})*:? [^ ]|\d+ of \d+ points are impossible: .+=.*: {KEY}:? )"
)


def check(call: Callable[[], Any], files: tuple[Path, ...], typed: str) -> bool:
    """Make a call and return whether it is accepted. Fails unless it is that, or refused as it should be."""
    try:
        done = call()
    except BaseException:
        pytest.fail(f"{typed}\n{traceback.format_exc()}")
    refusal = done.stderr
    why = f"{typed}\nexit code {done.returncode}: {refusal}"
    assert done.returncode in (0, 2), why
    assert "Traceback" not in refusal, why
    if done.returncode == 0:
        return True
    assert refusal.startswith("error: "), why
    assert refusal.count("\n") <= 2, why
    assert len(refusal) < 2000, why
    assert not WORDS.search(refusal), why
    name = next((str(path) for path in files if str(path) in refusal), None)
    assert name is not None, why
    rest = refusal.partition(name)[2]
    assert WHOLE.match(rest) or KEYED.match(rest), why
    return False


def experiments(folder: Path, chance: random.Random) -> tuple[Callable[[], Any], tuple[Path, ...], str]:
    (path := folder / "mine.yaml").write_text(text := damaged(EXPERIMENT, chance))
    return lambda: shiftbench("config", "show", path), (path,), text


def overrides(folder: Path, chance: random.Random) -> tuple[Callable[[], Any], tuple[Path, ...], str]:
    content = chance.choice((EXPERIMENT, STUDY))
    (path := folder / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    typed = [override(content, chance) for _ in range(chance.choice((1, 1, 2)))]
    return lambda: shiftbench("config", "show", path, "--", *typed), (path, folder / "base.yaml"), repr(typed)


def studies(folder: Path, chance: random.Random) -> tuple[Callable[[], Any], tuple[Path, ...], str]:
    (path := folder / "mine.yaml").write_text(text := damaged(STUDY, chance))
    base = damaged(BASE, chance) if chance.random() < 0.1 else yaml.safe_dump(BASE)
    (folder / "base.yaml").write_text(base)
    # The base may be anywhere: a refusal begins with some file of the folder, or that of the damaged name.
    return lambda: shiftbench("config", "show", path), (path, folder / "base.yaml", folder), text


def clusters(folder: Path, chance: random.Random) -> tuple[Callable[[], Any], tuple[Path, ...], str]:
    (path := folder / "site.yaml").write_text(text := damaged(CLUSTER, chance))
    batch = {"global_batch_size": 1024, "batch_size_per_gpu": 1, "norm_batch_size": 2}
    (plain := folder / "mine.yaml").write_text(yaml.safe_dump({**BASE, "batch": batch}))
    options = ("--cluster", path, "--output-dir", folder / "runs", "--dry-run")
    return lambda: shiftbench("submit", plain, *options), (path, plain), text


@pytest.mark.parametrize(
    ("kind", "number"), [(experiments, 150), (overrides, 150), (studies, 120), (clusters, 120)]
)
def test_a_damaged_config_is_read_or_refused_in_a_sentence(
    kind: Callable[..., Any], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_srun(monkeypatch, tmp_path)
    monkeypatch.setattr(
        slurm_commands, "ask", lambda *words, **_: "MaxArraySize = 1001\n" if "config" in words else ""
    )
    chance = random.Random(kind.__name__)
    accepted = [check(*kind(tmp_path, chance)) for _ in range(number)]
    assert number / 100 < sum(accepted) < number * 0.8  # both happen
