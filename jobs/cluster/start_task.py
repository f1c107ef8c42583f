"""Starts a job's task: `python -m jobs.cluster.start_task FOLDER`. FOLDER holds what Submitit has pickled."""

from jobs.local.process_end import exit_with


def main() -> None:
    """Become Submitit's program."""
    from submitit.core.submission import submitit_main

    submitit_main()


if __name__ == "__main__":
    exit_with(main)
