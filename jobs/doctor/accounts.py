"""Accounts, QOS and keys, as sacctmgr knows them, and whether sacct answers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from jobs.cluster.clusters import SlurmCluster
from jobs.cluster.slurm_commands import SlurmError, ask
from jobs.doctor.finding import Finding, ok, problem, unknown, warning
from jobs.doctor.settings import enforcement

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Association:
    """A user's right to an account; an empty partition means all of them."""

    account: str
    partition: str
    qos: frozenset[str]


@dataclass(frozen=True)
class Accounts:
    """What sacctmgr says of one user. `error`: why it says nothing."""

    associations: tuple[Association, ...] = ()
    default_account: str = ""
    default_wckey: str = ""
    wckeys: tuple[str, ...] = ()
    qos: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    error: str = ""


def accounts_of(user: str, slurm_cluster: str) -> Accounts:
    """Asks sacctmgr four times, and never raises for want of an answer."""
    try:
        at = f"cluster={slurm_cluster}"
        rights = _rows("assoc", f"user={user}", at, "format=account,partition,qos")
        users = _rows("user", user, "format=defaultaccount,defaultwckey")
        keys = _rows("wckey", f"user={user}", at, "format=wckey")
        qos = _rows("qos", "format=name,preemptmode,gracetime")
    except SlurmError as error:
        return Accounts(error=str(error))
    account, key = users[0] if users and len(users[0]) == 2 else ["", ""]
    return Accounts(
        tuple(Association(row[0], row[1], frozenset(row[2].split(","))) for row in rights if len(row) == 3),
        account,
        key.removeprefix("*"),
        tuple(row[0].removeprefix("*") for row in keys if row[0].removeprefix("*")),
        {
            row[0]: {"Name": row[0], "PreemptMode": row[1], "GraceTime": row[2]}
            for row in qos
            if len(row) == 3
        },
    )


def _rows(*what: str) -> list[list[str]]:
    text = ask("sacctmgr", "--noheader", "--parsable2", "show", *what, timeout_s=TIMEOUT_S)
    return [line.split("|") for line in text.splitlines() if line.strip()]


def judge_account(
    config: Mapping[str, str], cluster: SlurmCluster, user: str, partition: str | None, known: Accounts
) -> Iterator[Finding]:
    """Whether this user may charge the account, and use the QOS."""
    enforced = enforcement(config)
    if config.get("AccountingStorageType", "").endswith("none"):
        yield ok("account", "this site keeps no accounts")
        return
    if known.error:
        yield unknown(
            "account",
            f"sacctmgr does not answer: {known.error}",
            "start slurmdbd (the admin's), then look again",
        )
        return
    yield _account(enforced, cluster, user, partition, known)
    if cluster.qos is not None:
        yield _qos(enforced, cluster.qos, cluster.account or known.default_account, known)


def _account(
    enforced: set[str], cluster: SlurmCluster, user: str, partition: str | None, known: Accounts
) -> Finding:
    yours = sorted({one.account for one in known.associations if one.partition in ("", partition)})
    listed = ", ".join(yours) or "none"
    account = cluster.account or known.default_account
    demanded = bool(enforced & {"associations", "limits", "qos", "safe", "wckeys"})
    add = f"`sacctmgr add user {user} account={account or 'ACCOUNT'}` (the admin's)"
    if account in yours:
        return ok("account", account if cluster.account else f"{account}, by default")
    mend = f"account: in the cluster's file, one of {listed}; or {add}" if yours else add
    if not demanded:
        return ok("account", f"{account or 'none'}: this site does not demand one")
    if not account:
        return problem("account", f"{user} has no default account, and the cluster's file names none", mend)
    return problem("account", f"{user} may not charge {account}; yours: {listed}", mend)


def _qos(enforced: set[str], qos: str, account: str, known: Accounts) -> Finding:
    yours = sorted({q for one in known.associations if one.account == account for q in one.qos if q})
    mend = f"qos: in the cluster's file, one of {', '.join(yours or known.qos) or 'none'}, or leave it out"
    if qos not in known.qos:
        return problem("qos", f"{qos}: there is none of this name", mend)
    if qos in yours:
        return ok("qos", qos)
    found = f"{qos} is not one of those of account {account}"
    return (
        problem("qos", found, mend)
        if "qos" in enforced
        else warning("qos", f"{found}, not demanded now", mend)
    )


def sacct(config: Mapping[str, str]) -> Finding:
    """sacct is a help, not a need."""
    lost = "so when Slurm has forgotten a job, why it ended is not known: `status` tells what the records say"
    if config.get("AccountingStorageType", "").endswith("none"):
        return warning(
            "sacct",
            f"this site keeps no accounts, {lost}",
            "AccountingStorageType=accounting_storage/slurmdbd (the admin's); nothing of ours needs it",
        )
    try:
        ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID", timeout_s=TIMEOUT_S)
    except SlurmError as error:
        return warning(
            "sacct",
            f"{error}; {lost}",
            "start slurmdbd (`systemctl start slurmdbd`, the admin's); nothing of ours needs it",
        )
    return ok("sacct", "answers")
