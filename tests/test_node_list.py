"""Lists of nodes: what `scontrol show hostnames` makes of the same texts."""

import pytest

from suite.errors import UserError
from suite.launch import launch_variables
from suite.node_list import node_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", "n1"),
        ("n[9-11]", "n9 n10 n11"),
        ("rack[0-1]n[08-11]", "rack0n08 rack0n09 rack0n10 rack0n11 rack1n08 rack1n09 rack1n10 rack1n11"),
        ("x[1-2][3-4]", "x13 x14 x23 x24"),
        ("n[001,3-4],n[001]", "n001 n3 n4 n001"),
        ("n[1-2],,m", "n1 n2 m"),
        # Slurm 22.05 takes no name behind the last bracket; later ones do.
        ("node[01-03,7],gpu[1-2]-ib,a1", "node01 node02 node03 node7 gpu1-ib gpu2-ib a1"),
        ("login-1.site,d[098-101]", "login-1.site d098 d099 d100 d101"),
    ],
)
def test_the_names_of_a_list(text: str, names: str) -> None:
    assert node_names(text) == names.split()


@pytest.mark.parametrize(
    "text", ["", "n[1-2", "n]1[", "n[2-1]", "n[a-b]", "n[1-]", "n[]", "n1 n2", "n[1[2]]"]
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(
        UserError, match=r"is not a list of nodes as Slurm writes it, such as node\[01-03,7\]"
    ):
        node_names(text)


def test_the_first_node_is_found_without_slurms_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    step = {
        "JOB_ID": "7",
        "STEP_NUM_TASKS": "4",
        "PROCID": "3",
        "LOCALID": "1",
        "STEP_NODELIST": "gpu[08-09]",
    }
    found = launch_variables({f"SLURM_{name}": value for name, value in step.items()})
    assert (found["MASTER_ADDR"], found["RANK"], found["WORLD_SIZE"]) == ("gpu08", "3", "4")
