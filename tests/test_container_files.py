"""The Dockerfile and the definition for Apptainer: one base, the lock, and all that a wheel is made of."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text()
DEFINITION = (ROOT / "containers" / "shiftbench.def").read_text()


def needed() -> set[str]:
    """What a wheel is built from, by pyproject.toml, and the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = {"pyproject.toml", "requirements.txt", project["project"]["readme"]}
    return {*files, *project["project"]["license-files"], *wheel["packages"], *wheel["force-include"]}


def copied_by_docker() -> set[str]:
    lines = re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
    return {source for line in lines for source in line.split()[:-1]}


def copied_by_apptainer() -> set[str]:
    section = DEFINITION.split("%files\n")[1].split("\n\n")[0]
    pairs = [line.split() for line in section.splitlines()]
    assert all(target == f"/opt/shiftbench/{source}" for source, target in pairs)
    return {source for source, _ in pairs}


def test_both_have_one_base_whose_python_the_package_takes() -> None:
    bases = re.findall(r"^(?:FROM|From:) (.+)$", DOCKERFILE + DEFINITION, re.MULTILINE)
    assert len(bases) == 2
    assert bases[0] == bases[1]
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim", bases[0])
    assert version is not None
    assert (int(version[1]), int(version[2])) >= (3, 11)


def test_both_copy_what_the_wheel_and_the_lock_take() -> None:
    assert copied_by_docker() == copied_by_apptainer() == needed()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == needed()
    assert "*" in ignored


def test_both_install_the_lock_by_its_hashes_and_nothing_else() -> None:
    installs = [re.findall(r"pip install (.+)", text) for text in (DOCKERFILE, DEFINITION)]
    assert installs[0] == installs[1]
    lock, package = installs[0]
    assert {"--require-hashes", "--no-deps", "--requirement", "requirements.txt"} <= set(lock.split())
    # What builds the package is in the lock.
    assert {"--no-deps", "--no-build-isolation", "."} <= set(package.split())
    assert re.search(r"^hatchling==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    named = re.findall(r"https?://\S+|--(?:extra-)?index-url", DOCKERFILE + DEFINITION)
    assert named == []  # no package server


def test_an_image_of_docker_runs_the_command_as_an_ordinary_user() -> None:
    instructions = [line.split(" ", 1) for line in DOCKERFILE.splitlines() if re.match("[A-Z]+ ", line)]
    last = dict(instructions)  # the last one of each kind counts
    assert (last["USER"], last["WORKDIR"], last["ENTRYPOINT"]) == ("shiftbench", "/work", '["shiftbench"]')
    assert "NVIDIA_VISIBLE_DEVICES=all" in last["ENV"]  # without it enroot shows no GPU
    assert 'exec shiftbench "$@"' in DEFINITION.split("%runscript\n")[1]
