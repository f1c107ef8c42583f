"""The doctor's findings on interpreters, packages and GPUs of the nodes, judged from recorded answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from jobs.doctor.decoding import check_decoding, write_photograph
from jobs.doctor.finding import Answer, Case
from tests.helpers.devices import DEVICES
from tests.helpers.doctor_cases import findings, problems, recorded


def answers_of(case: Case, node: str) -> dict[str, Answer]:
    return next(one.answers for one in case.nodes if one.name == node)


def test_a_jobs_folder_that_a_node_does_not_see_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n2")["start"]["code"] = False
    del answers_of(case, "n2")["end"]
    found = findings(case)
    assert found["jobs folder"].found.startswith("n2: /scratch/code/")
    assert "jobs_folder: in the cluster's file" in found["jobs folder"].fix
    assert "python" not in found


def test_an_interpreter_that_is_missing_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n2")["start"]["python"] = False
    del answers_of(case, "n2")["end"]
    finding = findings(case)["python"]
    assert finding.verdict == "problem"
    assert finding.found == "n2: there is no /opt/python/bin/python"
    assert "python: in the cluster's file" in finding.fix


def test_a_node_whose_checks_end_early_is_a_problem() -> None:
    case = recorded()
    case = Case(case.cluster, case.here, case.nodes, case.request, "Illegal instruction")
    answers = answers_of(case, "n2")
    for probe in answers.keys() - {"start", "clock"}:
        del answers[probe]
    finding = findings(case)["python"]
    assert finding.verdict == "problem"
    assert "n2: its checks ended after" in finding.found
    assert finding.found.endswith("Illegal instruction")


def test_packages_that_are_missing_or_broken_are_a_problem() -> None:
    case = recorded()
    answers = answers_of(case, "n1")
    answers["packages"].update(errors={"torch": "OSError: libcudart"}, absent=["nvidia-ml-py", "psutil"])
    finding = findings(case)["packages"]
    assert finding.verdict == "problem"
    assert finding.found == "n1: nvidia-ml-py, psutil not installed; torch: OSError: libcudart"
    assert "/opt/python/bin/python -m pip install" in finding.fix


def test_two_versions_of_torch_are_a_problem() -> None:
    case = recorded()
    here = answers_of(case, "n1")["packages"]["versions"]["torch"]
    answers_of(case, "n2")["packages"]["versions"]["torch"] = "2.11.0"
    finding = findings(case)["packages"]
    assert finding.verdict == "problem"
    assert finding.found == f"n1, n3: torch {here}; n2: torch 2.11.0"
    assert "python: in the cluster's file" in finding.fix


def test_other_versions_on_the_login_machine_are_a_warning() -> None:
    case = recorded()
    there = answers_of(case, "n1")["packages"]["versions"]["torch"]
    assert "+" in there  # the build's name, which only the imported package has
    case.here["versions here"]["torch"] = "2.12.1"
    finding = findings(case)["packages"]
    assert finding.verdict == "warning"
    assert finding.found == f"torch {there} on the nodes, but torch 2.12.1 here"


# ---------------------------------------------------------------- GPUs and decoding

CARDS = {"count": 2, "names": ["H100"], "driver": "580.1", "nccl": "2.27.5", "faults": {}}


@pytest.mark.parametrize(
    ("change", "verdict", "found", "fix"),
    [
        ({}, "ok", "H100, driver 580.1, NCCL 2.27.5", ""),
        ({"count": 1}, "problem", "n2: 1 GPUs instead of 2", "gpus_per_node"),
        ({"count": 0, "error": "driver too old"}, "problem", "n2: driver too old", "nvidia-smi"),
        ({"faults": {"1": "an ECC error"}}, "problem", "n2: GPU 1: an ECC error", "exclude: n2"),
        ({"driver": "550.2"}, "warning", "n2: H100, driver 550.2", "constraint"),
        ({"driver": ""}, "warning", "n2: H100, driver unknown", "constraint"),
    ],
)
def test_gpus(change: dict[str, Any], verdict: str, found: str, fix: str) -> None:
    case = recorded(gpus_per_node=2)
    for node in case.nodes:
        node.answers["gpus"] = {**CARDS, **(change if node.name == "n2" else {})}
    finding = findings(case)["GPUs"]
    assert finding.verdict == verdict
    assert found in finding.found
    assert fix in finding.fix


def test_gpus_that_were_not_asked_for_are_not_missed() -> None:
    assert "error" in answers_of(recorded(), "n1")["gpus"]
    assert findings(recorded())["GPUs"].verdict == "ok"
    assert problems(findings(recorded(gpus_per_node=2))) == {"GPUs", "GPUs of the nodes"}


def test_what_needs_torch_is_unknown_without_it() -> None:
    case = recorded(gpus_per_node=2)
    for node in case.nodes:
        for probe in ("gpus", "decode", "group"):
            del node.answers[probe]
    found = findings(case)
    assert {found[check].verdict for check in ("GPUs", "DALI", "process group")} == {"unknown"}


def test_a_decoder_that_fails_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n2")["decode"] = {"cpu": None, "mixed": "nvJPEG"}
    finding = findings(case)["DALI"]
    assert (finding.verdict, finding.found) == ("problem", "n2: mixed: nvJPEG")
    assert "loader: torchvision" in finding.fix


@pytest.mark.parametrize("device", DEVICES)
def test_a_photograph_is_read_as_training_reads_it(device: torch.device) -> None:
    check_decoding(device)


def test_a_photograph_whose_pixels_are_wrong_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.data.dali_graph.MEAN", (0.485, 0.456, 0.45))
    with pytest.raises(ValueError, match=r"pixels are [34]\.\d grey levels of 255 from torchvision's"):
        check_decoding(torch.device("cpu"))


def test_a_photographs_colours_have_half_its_resolution(tmp_path: Path) -> None:
    """By the sampling factors of its JPEG: two by two for brightness, one for each colour."""
    write_photograph(tmp_path / "x.jpg", 0)
    with Image.open(tmp_path / "x.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]
