"""The doctor's findings about accounts, QOS, keys and sacct, judged from recorded answers."""

from typing import Any

import pytest

from jobs.doctor.finding import Case, Finding
from tests.helpers.doctor_cases import config_of, findings, recorded


def judged(enforce: str, **keys: Any) -> dict[str, Finding]:
    """The findings where the user may charge `research` everywhere, and `bio` in one partition."""
    case = recorded(**keys)
    config_of(case)["AccountingStorageEnforce"] = enforce
    answer = case.here["accounts"]
    answer["assoc"] = [["research", "", "normal"], ["bio", "urgent", ""]]
    answer["qos"] += [["long", "cluster", "00:01:30"]]
    return findings(case)


@pytest.mark.parametrize(
    ("enforce", "keys", "check", "verdict"),
    [
        ("associations,qos", {}, "account", "ok"),
        ("associations,qos", {"account": "bio"}, "account", "problem"),
        ("associations,qos", {"account": "bio", "partition": "urgent"}, "account", "ok"),
        ("none", {"account": "bio"}, "account", "ok"),
        ("associations,qos", {"qos": "normal"}, "qos", "ok"),
        ("associations,qos", {"qos": "long"}, "qos", "problem"),
        ("none", {"qos": "long"}, "qos", "warning"),
        ("none", {"qos": "short"}, "qos", "problem"),
    ],
)
def test_accounts_and_qos(enforce: str, keys: dict[str, Any], check: str, verdict: str) -> None:
    assert judged(enforce, **keys)[check].verdict == verdict


def test_an_account_without_an_association_is_a_problem() -> None:
    finding = findings(recorded(account="astronomy"))["account"]
    assert finding.verdict == "problem"
    assert "astronomy" in finding.found
    assert "research" in finding.fix
    assert "sacctmgr add user root account=astronomy" in finding.fix


def test_an_unknown_qos_is_a_problem_and_known_ones_are_named() -> None:
    finding = findings(recorded(qos="express"))["qos"]
    assert finding.verdict == "problem"
    assert "normal" in finding.fix


def test_no_account_at_all_is_a_problem() -> None:
    case = recorded()
    case.here["accounts"].update(assoc=[], defaults=[])
    finding = findings(case)["account"]
    assert finding.verdict == "problem"
    assert finding.found == "root has no default account, and the cluster's file names none"


def test_accounting_that_does_not_answer_leaves_accounts_unknown() -> None:
    case = recorded()
    case.here["accounts"] = case.here["sacct"] = {"error": "Connection refused"}
    found = findings(case)
    assert (found["account"].verdict, found["sacct"].verdict) == ("unknown", "warning")
    assert "start slurmdbd" in found["account"].fix
    assert "start slurmdbd" in found["sacct"].fix


def test_a_site_without_accounting() -> None:
    case = recorded()
    config_of(case)["AccountingStorageType"] = "accounting_storage/none"
    found = findings(case)
    assert (found["account"].verdict, found["sacct"].verdict) == ("ok", "warning")
    assert "accounting_storage/slurmdbd" in found["sacct"].fix


def keyed(default: str, keys: list[str], **options: Any) -> Case:
    case = recorded(**options)
    config_of(case)["AccountingStorageEnforce"] = "associations,wckeys"
    case.here["accounts"].update(wckey=[[key] for key in keys], defaults=[["research", default]])
    return case


def test_a_key_that_the_site_requires() -> None:
    finding = findings(keyed("", ["vision"]))["wckey"]
    assert finding.verdict == "problem"
    assert "{wckey: vision}" in finding.fix
    assert "sacctmgr add user" in findings(keyed("", []))["wckey"].fix
    assert findings(keyed("*vision", ["*vision"]))["wckey"].found == "required; yours is vision, by default"
    sound = {"additional_parameters": {"wckey": "sound"}}
    assert findings(keyed("", ["vision"], **sound))["wckey"].verdict == "problem"
    assert findings(keyed("", ["vision", "sound"], **sound))["wckey"].verdict == "ok"
    assert findings(recorded())["wckey"].found == "not required at this site"
