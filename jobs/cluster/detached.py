"""The launcher of a submission to the cluster `local`: trains its runs on this machine, in the background.

python -m jobs.cluster.detached OUTPUT_DIR TOKEN
"""

import sys
from pathlib import Path

from rich.console import Console

from jobs.checks import read_run
from jobs.cluster.clusters import LocalCluster, parse_cluster
from jobs.cluster.ledger import Ledger
from jobs.local.launcher import run_all
from jobs.local.progress import ProgressView
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import RecordWriter, read_status


def main() -> int:
    """Train the submission's runs that were not cancelled, and return the exit code."""
    output_dir, token = Path(sys.argv[1]), sys.argv[2]
    (one,) = (s for s in Ledger(output_dir).read() if s.token == token)
    cluster = parse_cluster(one.cluster, token)
    if not isinstance(cluster, LocalCluster):
        raise UserError(f"submission {one.name}: expected scheduler local, got {one.scheduler}")
    folders = [output_dir / name for name in one.folders]
    runs = [read_run(f) for f in folders if read_status(RunPaths(f)).state != "cancelled"]
    view = ProgressView(Console(force_terminal=False, width=200))
    try:
        outcome = run_all(runs, output_dir, cluster.array_parallelism or 1, cluster.ranks, view)
    except UserError as error:  # such as too few GPUs: `status` shows it from the records
        for run in runs:
            with RecordWriter(run, output_dir / run.folder_name) as record:
                record.status("failed", reason=str(error))
        raise
    print(outcome)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
