"""The doctor's findings on the nodes, judged from recorded answers with a planted fault."""

from dataclasses import replace
from typing import Any

import pytest

from jobs.doctor import NODE_TOPICS
from jobs.doctor.finding import Answer, Case
from tests.helpers.doctor_cases import findings, recorded


def answers_of(case: Case, node: str) -> dict[str, Answer]:
    return next(one.answers for one in case.nodes if one.name == node)


def test_this_machine_alone_has_no_finding_but_ok() -> None:
    found = {check: one.verdict for check, one in findings_of_nodes(recorded("this_machine")).items()}
    assert set(found.values()) == {"ok"}
    assert "names of nodes" not in found


def findings_of_nodes(case: Case) -> dict[str, Any]:
    return {one.check: one for topic in NODE_TOPICS for one in topic.judge(case)}


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize(("ahead_s", "text"), [(40.0, "+40 s"), (-7.0, "-7 s")])
def test_a_clock_that_is_off_is_a_warning(ahead_s: float, text: str) -> None:
    case = recorded()
    case.nodes[1].clock_ahead_s = 4.0
    assert findings(case)["clocks"].verdict == "ok"
    case.nodes[1].clock_ahead_s = ahead_s
    finding = findings(case)["clocks"]
    assert finding.verdict == "warning"
    assert f"n2: {text} from this machine's" in finding.found
    assert "chronyd" in finding.fix


def test_a_file_server_whose_clock_is_off_is_a_warning() -> None:
    case = recorded()
    answers_of(case, "n1")["shared"]["mtime"] = -90.0
    finding = findings(case)["clocks"]
    assert finding.verdict == "warning"
    assert "n1: -90 s off the file server's" in finding.found


def on_hosts_of_their_own(case: Case) -> Case:
    """The nodes of the recording share a host; here each is a host with an address."""
    addresses = {f"n{number}": [f"10.0.0.{number}"] for number in (1, 2, 3)}
    for node in case.nodes:
        node.answers["start"]["host"] = f"h-{node.name}"
        node.answers["names"].update(resolved=dict(addresses), own=addresses[node.name])
    return case


def test_a_name_that_resolves_to_the_node_itself_is_a_problem() -> None:
    assert findings(recorded())["names of nodes"].verdict == "ok"  # nodes that share a host reach it so
    case = on_hosts_of_their_own(recorded())
    assert findings(case)["names of nodes"].verdict == "ok"
    answers_of(case, "n2")["names"]["resolved"].update(n1=["127.0.0.1"], n2=["127.0.1.1"])
    finding = findings(case)["names of nodes"]
    assert finding.verdict == "problem"
    assert finding.found == "n2: n1 resolves to 127.0.0.1, which is the node itself"
    assert "/etc/hosts" in finding.fix


def test_a_name_that_is_not_resolved_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n2")["names"]["resolved"]["n3"] = "Name or service not known"
    finding = findings(case)["names of nodes"]
    assert finding.verdict == "problem"
    assert finding.found == "n2: n3 is not resolved (Name or service not known)"


def test_a_host_that_knows_itself_by_loopback_only_is_a_problem() -> None:
    case = on_hosts_of_their_own(recorded())
    answers_of(case, "n2")["names"]["own"] = ["127.0.1.1"]
    finding = findings(case)["names of nodes"]
    assert finding.verdict == "problem"
    assert "n2: its own host name resolves to 127.0.1.1" in finding.found
    assert "GLOO_SOCKET_IFNAME" in finding.fix
    answers_of(case, "n2")["names"]["interface"] = "ib0"
    assert findings(case)["names of nodes"].verdict == "ok"


def test_a_list_of_nodes_that_cannot_be_read_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n1")["names"] = {"error": "UserError: 'n[1' is not a list of nodes"}
    finding = findings(case)["names of nodes"]
    assert (finding.verdict, "MASTER_ADDR" in finding.fix) == ("problem", True)


def test_a_first_node_behind_a_firewall_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n1")["connection"]["complete"] = False
    answers_of(case, "n2")["connection"] = {"error": "n1:20777: No route to host"}
    for node in case.nodes:
        del node.answers["group"]  # not tried then
    found = findings(case)
    assert found["first node's port"].verdict == "problem"
    assert found["first node's port"].found == "n2: n1:20777: No route to host"
    assert "20000 to 31999" in found["first node's port"].fix
    assert found["process group"].verdict == "unknown"


def test_ports_that_other_programs_use_are_a_warning() -> None:
    case = recorded()
    ports = answers_of(case, "n1")["ports"]
    ports["busy"] = 30
    finding = findings(case)["free ports"]
    assert finding.verdict == "warning"
    assert "n1: 30 of 100" in finding.found
    assert "ss -ltnp" in finding.fix
    ports.update(busy=0, ephemeral=[1024, 64_999])
    finding = findings(case)["free ports"]
    assert finding.verdict == "warning"
    assert "ip_local_reserved_ports=20000-31999" in finding.fix


def test_a_port_that_another_program_took_is_named_as_the_cause() -> None:
    case = recorded()
    error = "DistNetworkError: port: 20062, code: -98, name: EADDRINUSE"
    answers_of(case, "n1")["group"] = {"error": error}
    answers_of(case, "n2")["group"] = {"error": "reset"}
    finding = findings(case)["process group"]
    assert (finding.verdict, finding.found) == ("problem", f"n1: {error}; n2: reset")
    assert "listens on that port" in finding.fix
    assert "GLOO" not in finding.fix
    answers_of(case, "n1")["group"] = {"error": "reset"}
    assert "GLOO_SOCKET_IFNAME" in findings(case)["process group"].fix


# ---------------------------------------------------------------- storage


def test_an_output_folder_that_is_not_shared_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n2")["shared"] = {"read": "No such file or directory"}
    case.here["arrived"]["missing"] = ["n3"]
    finding = findings(case)["output folder"]
    assert finding.verdict == "problem"
    assert "n2: No such file or directory; n3: its file does not appear here" in finding.found
    assert "--output-dir" in finding.fix
    assert "locks" not in findings(case)


def test_an_output_folder_that_nodes_cannot_write_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n2")["shared"] = {"read": "", "write": "Read-only file system"}
    finding = findings(case)["output folder"]
    assert finding.verdict == "problem"
    assert "cannot be written: n2: Read-only file system" in finding.found
    assert "permissions" in finding.fix


def test_a_lock_that_is_not_noticed_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n1")["shared"]["lock"] = "not noticed"
    finding = findings(case)["locks"]
    assert finding.verdict == "problem"
    assert "n1: not noticed" in finding.found
    assert "flock" in finding.fix
    case = recorded()
    case.here["lock"] = {"error": "Function not implemented"}
    assert "this machine: Function not implemented" in findings(case)["locks"].found


def test_little_shared_memory_is_a_warning() -> None:
    case = recorded()
    answers_of(case, "n1")["shm"] = {"free_mib": 64, "total_mib": 64}
    finding = findings(case)["/dev/shm"]
    assert (finding.verdict, finding.found) == ("warning", "n1: 64 MiB free")
    assert "--shm-size" in finding.fix
    for node in case.nodes:
        node.answers["shm"]["free_mib"] = 4096
    assert findings(case)["/dev/shm"].found == "4 GiB free, or more"


def test_less_shared_memory_than_the_experiments_loaders_need_is_a_problem() -> None:
    case = recorded()
    case = replace(case, request=replace(case.request, shm_mib=5000))
    for node in case.nodes:
        node.answers["shm"]["free_mib"] = 4096
    finding = findings(case)["/dev/shm"]
    assert finding.verdict == "problem"
    assert finding.found.endswith("4096 MiB free; the loaders of the experiment need 5000 MiB")
    assert "data.loader=dali" in finding.fix


def test_data_that_a_node_cannot_read_is_a_problem() -> None:
    case = recorded()
    answers_of(case, "n2")["data"]["/scratch/images"] = "train: No such file or directory"
    finding = findings(case)["data"]
    assert finding.verdict == "problem"
    assert finding.found == "/scratch/images: n2: train: No such file or directory"
    assert "data.path" in finding.fix


def test_without_a_named_folder_the_data_are_not_known_to_be_there() -> None:
    case = recorded()
    finding = findings(replace(case, request=replace(case.request, data=[])))["data"]
    assert finding.verdict == "unknown"
    assert "no folder was named" in finding.found
    assert "--data PATH, or --config EXPERIMENT.yaml" in finding.fix


# ---------------------------------------------------------------- software
