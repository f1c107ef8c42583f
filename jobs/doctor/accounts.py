"""Accounts, QOS and workload keys, as sacctmgr knows them, and whether sacct answers."""

from collections.abc import Iterator

from jobs.cluster.slurm_commands import ask
from jobs.doctor.finding import Answer, Case, Topic, Verdict
from jobs.doctor.partition import chosen
from suite.user import user_name

TIMEOUT_S = 20.0
DEMANDING = frozenset(["associations", "limits", "qos", "safe", "wckeys"])
START = "start slurmdbd: `systemctl start slurmdbd` (administrator)"


def probe_accounts(case: Case) -> Answer:
    """sacctmgr's rows about this user, and its QOS. An empty partition means all of them."""
    user, at = user_name(), f"cluster={case.config.get('ClusterName', '')}"
    return {
        "user": user,
        "assoc": _rows("assoc", f"user={user}", at, "format=account,partition,qos"),
        "defaults": _rows("user", user, "format=defaultaccount,defaultwckey"),
        "wckey": _rows("wckey", f"user={user}", at, "format=wckey"),
        "qos": _rows("qos", "format=name,preemptmode,gracetime"),
    }


def _rows(*what: str) -> list[list[str]]:
    text = ask("sacctmgr", "--noheader", "--parsable2", "show", *what, timeout_s=TIMEOUT_S)
    num_commas = what[-1].count(",")
    return [line.split("|") for line in text.splitlines() if line.strip() and line.count("|") == num_commas]


def probe_sacct(case: Case) -> Answer:
    """Ask sacct for this user's jobs of today, unless the site keeps no accounts."""
    if not _has_no_accounts(case):
        ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID", timeout_s=TIMEOUT_S)
    return {}


def _has_no_accounts(case: Case) -> bool:
    return case.config.get("AccountingStorageType", "").endswith("none")


def _enforced(case: Case) -> set[str]:
    """What AccountingStorageEnforce requires of each job."""
    return set(case.config.get("AccountingStorageEnforce", "none").lower().split(","))


def _defaults(case: Case) -> list[str]:
    """This user's default account and default key; empty texts where there is none."""
    rows = case.here["accounts"].get("defaults")
    return [text.removeprefix("*") for text in rows[0]] if rows else ["", ""]


def _account(case: Case) -> Iterator[Verdict]:
    answer, account = case.here["accounts"], case.slurm.account or _defaults(case)[0]
    if _has_no_accounts(case):
        yield "ok", "this site keeps no accounts"
        return
    if error := answer.get("error"):
        yield "unknown", f"sacctmgr does not answer: {error}", f"{START}, then run the doctor again"
        return
    yours = sorted({name for name, partition, _ in answer["assoc"] if partition in ("", chosen(case))})
    listed, user = ", ".join(yours) or "none", answer["user"]
    add = f"`sacctmgr add user {user} account={account or 'ACCOUNT'}` (administrator)"
    fix = f"set account: in the cluster's file to one of {listed}; or {add}" if yours else add
    if account in yours:
        yield "ok", account if case.slurm.account else f"{account}, by default"
    elif not _enforced(case) & DEMANDING:
        yield "ok", f"{account or 'none'}: this site does not require one"
    elif not account:
        yield "problem", f"{user} has no default account, and the cluster's file names none", fix
    else:
        yield "problem", f"{user} may not charge {account}; your accounts: {listed}", fix


def _qos(case: Case) -> Iterator[Verdict]:
    answer, qos = case.here["accounts"], case.slurm.qos
    if qos is None or "error" in answer or _has_no_accounts(case):
        return
    account, known = case.slurm.account or _defaults(case)[0], [name for name, _, _ in answer["qos"]]
    lists = [row[2] for row in answer["assoc"] if row[0] == account]
    yours = sorted({one for names in lists for one in names.split(",")})
    listed = ", ".join(filter(None, yours)) or ", ".join(known) or "none"
    fix = f"set qos: in the cluster's file to one of {listed}, or remove it"
    found = f"account {account} does not include the QOS {qos}"
    if qos not in known:
        yield "problem", f"there is no QOS {qos}", fix
    elif qos in yours:
        yield "ok", qos
    else:
        yield "problem" if "qos" in _enforced(case) else "warning", found, fix


def _wckey(case: Case) -> Iterator[Verdict]:
    answer, asked = case.here["accounts"], case.slurm.additional_parameters.get("wckey")
    keys = [key.removeprefix("*") for (key,) in answer.get("wckey", [])]
    fix = f"set additional_parameters: {{wckey: {keys[0] if keys else 'KEY'}}} in the cluster's file"
    fix += "" if keys else ", with a key by `sacctmgr add user NAME wckey=KEY` (administrator)"
    if "wckeys" not in _enforced(case):
        yield "ok", "not required at this site"
    elif asked is None and (default := _defaults(case)[1]):
        yield "ok", f"required; yours is {default}, by default"
    elif asked is None:
        yield "problem", "the site requires one for each job, and the cluster's file has none", fix
    elif "error" not in answer and str(asked) not in keys:
        yield "problem", f"{asked} is not one of your keys ({', '.join(keys) or 'you have none'})", fix
    else:
        yield "ok", f"{asked}, as the site requires"


def _sacct(case: Case) -> Iterator[Verdict]:
    error = "this site keeps no accounts" if _has_no_accounts(case) else case.here["sacct"].get("error")
    if error:
        fix = f"{START}, with AccountingStorageType=accounting_storage/slurmdbd; or accept this"
        yield "warning", f"{error}; `status` knows the end of older jobs from the record only", fix
    else:
        yield "ok", "answers"


CHECKS = {"account": _account, "qos": _qos, "wckey": _wckey, "sacct": _sacct}
TOPIC = Topic(CHECKS, here={"accounts": probe_accounts, "sacct": probe_sacct})
