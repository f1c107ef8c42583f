"""Accounts, QOS and workload keys, as sacctmgr knows them, and whether sacct answers."""

import getpass
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from jobs.cluster.slurm_commands import ask
from jobs.doctor.finding import Answer, Case, Finding, Topic, error_of, ok, problem, unknown, warning
from jobs.doctor.partition import chosen, partitions_of

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Association:
    """A user's right to charge an account. An empty partition means all of them."""

    account: str
    partition: str
    qos: frozenset[str]


@dataclass(frozen=True)
class Accounts:
    """What sacctmgr knows about one user, and every QOS. `error`: why it does not answer."""

    user: str
    associations: tuple[Association, ...] = ()
    default_account: str = ""
    default_wckey: str = ""
    wckeys: tuple[str, ...] = ()
    qos: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    error: str = ""


def probe_accounts(case: Case) -> Answer:
    """sacctmgr's rows about this user, and its QOS."""
    user, at = getpass.getuser(), f"cluster={case.config.get('ClusterName', '')}"
    return {
        "user": user,
        "assoc": _rows("assoc", f"user={user}", at, "format=account,partition,qos"),
        "defaults": _rows("user", user, "format=defaultaccount,defaultwckey"),
        "wckey": _rows("wckey", f"user={user}", at, "format=wckey"),
        "qos": _rows("qos", "format=name,preemptmode,gracetime"),
    }


def _rows(*what: str) -> list[list[str]]:
    text = ask("sacctmgr", "--noheader", "--parsable2", "show", *what, timeout_s=TIMEOUT_S)
    return [line.split("|") for line in text.splitlines() if line.strip()]


def probe_sacct(case: Case) -> Answer:
    """Asks sacct for this user's jobs of today, unless the site keeps no accounts."""
    if not _has_no_accounts(case.config):
        ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID", timeout_s=TIMEOUT_S)
    return {}


def accounts_of(case: Case) -> Accounts:
    """Parses sacctmgr's rows."""
    answer = case.here["accounts"]
    if error := error_of(answer):
        return Accounts("", error=error)
    defaults = answer["defaults"]
    account, key = defaults[0] if defaults and len(defaults[0]) == 2 else ["", ""]
    keys = [row[0].removeprefix("*") for row in answer["wckey"]]
    names = ("Name", "PreemptMode", "GraceTime")
    return Accounts(
        answer["user"],
        tuple(
            Association(row[0], row[1], frozenset(row[2].split(",")))
            for row in answer["assoc"]
            if len(row) == 3
        ),
        account,
        key.removeprefix("*"),
        tuple(filter(None, keys)),
        {row[0]: dict(zip(names, row, strict=True)) for row in answer["qos"] if len(row) == 3},
    )


def judge(case: Case) -> Iterator[Finding]:
    """Whether this user may charge the account, use the QOS and the key, and whether sacct answers."""
    known = accounts_of(case)
    if _has_no_accounts(case.config):
        yield ok("account", "this site keeps no accounts")
    elif known.error:
        yield unknown(
            "account",
            f"sacctmgr does not answer: {known.error}",
            "start slurmdbd (administrator), then run the doctor again",
        )
    else:
        yield _account(case, known)
        if case.slurm.qos is not None:
            yield _qos(case, case.slurm.qos, known)
    yield _wckey(case, known)
    yield _sacct(case)


def _account(case: Case, known: Accounts) -> Finding:
    partition = chosen(case.slurm, partitions_of(case))
    yours = sorted({one.account for one in known.associations if one.partition in ("", partition)})
    listed = ", ".join(yours) or "none"
    account = case.slurm.account or known.default_account
    is_demanded = bool(enforced(case.config) & {"associations", "limits", "qos", "safe", "wckeys"})
    add = f"`sacctmgr add user {known.user} account={account or 'ACCOUNT'}` (administrator)"
    if account in yours:
        return ok("account", account if case.slurm.account else f"{account}, by default")
    fix = f"set account: in the cluster's file to one of {listed}; or {add}" if yours else add
    if not is_demanded:
        return ok("account", f"{account or 'none'}: this site does not require one")
    if not account:
        found = f"{known.user} has no default account, and the cluster's file names none"
        return problem("account", found, fix)
    return problem("account", f"{known.user} may not charge {account}; your accounts: {listed}", fix)


def _qos(case: Case, qos: str, known: Accounts) -> Finding:
    account = case.slurm.account or known.default_account
    yours = sorted({q for one in known.associations if one.account == account for q in one.qos if q})
    listed = ", ".join(yours or known.qos) or "none"
    fix = f"set qos: in the cluster's file to one of {listed}, or remove it"
    if qos not in known.qos:
        return problem("qos", f"there is no QOS {qos}", fix)
    if qos in yours:
        return ok("qos", qos)
    found = f"account {account} does not include the QOS {qos}"
    if "qos" in enforced(case.config):
        return problem("qos", found, fix)
    return warning("qos", f"{found}, which the site does not enforce now", fix)


def _wckey(case: Case, known: Accounts) -> Finding:
    asked = case.slurm.additional_parameters.get("wckey")
    if "wckeys" not in enforced(case.config):
        is_tracked = case.config.get("TrackWCKey", "No").lower() == "yes"
        return ok("wckey", "tracked, but not required" if is_tracked else "not used at this site")
    key = known.wckeys[0] if known.wckeys else "KEY"
    fix = f"set additional_parameters: {{wckey: {key}}} in the cluster's file"
    if not known.wckeys:
        fix += "; the administrator gives you a key with `sacctmgr add user NAME wckey=KEY`"
    if asked is None:
        if known.default_wckey:
            return ok("wckey", f"required; yours is {known.default_wckey}, by default")
        return problem("wckey", "the site requires one for each job, and the cluster's file has none", fix)
    if not known.error and str(asked) not in known.wckeys:
        listed = ", ".join(known.wckeys) or "you have none"
        return problem("wckey", f"{asked} is not one of your keys ({listed})", fix)
    return ok("wckey", f"{asked}, as the site requires")


def _sacct(case: Case) -> Finding:
    lost = "once Slurm has forgotten a job, `status` knows its end from the record only"
    if _has_no_accounts(case.config):
        fix = "set AccountingStorageType=accounting_storage/slurmdbd (administrator); nothing depends on it"
        return warning("sacct", f"this site keeps no accounts; {lost}", fix)
    if error := error_of(case.here["sacct"]):
        fix = "start slurmdbd: `systemctl start slurmdbd` (administrator); nothing depends on it"
        return warning("sacct", f"{error}; {lost}", fix)
    return ok("sacct", "answers")


def _has_no_accounts(config: Mapping[str, str]) -> bool:
    return config.get("AccountingStorageType", "").endswith("none")


def enforced(config: Mapping[str, str]) -> set[str]:
    """What AccountingStorageEnforce requires of each job."""
    words = set(config.get("AccountingStorageEnforce", "none").lower().split(","))
    return words - {"none", "(null)", ""}


TOPIC = Topic("login", judge, here={"accounts": probe_accounts, "sacct": probe_sacct})
