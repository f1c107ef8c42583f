"""Copies of the sources for jobs to import, so that edits while they wait change nothing."""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from jobs.cluster.ledger import private_folder
from jobs.sources import source_files, sources_digest
from suite.errors import UserError
from suite.files import draft_of, publish_folder, write_atomically
from suite.provenance import ROOT, SNAPSHOT_NOTE, code_state


def snapshot(into: Path) -> Path:
    """Copy the packages and a note of their commit into a folder below `into`, and return it.

    Each state of the sources has one folder, which appears complete or not at all; one that has lost files
    is completed. Raises UserError when it cannot be written.
    """
    name = snapshot_name()
    if (folder := into / name).is_dir() and sources_digest(folder) == name:
        return folder
    private_folder(into)
    try:
        with draft_of(into / name) as draft:
            for relative in source_files(ROOT):
                (draft / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / relative, draft / relative)
            name = sources_digest(draft)  # of the copies: a file may have been saved meanwhile
            note = asdict(replace(code_state(), snapshot=name))
            write_atomically(draft / SNAPSHOT_NOTE, json.dumps(note, indent=1) + "\n", durable=False)
            if not publish_folder(draft, into / name):
                # Another submission has published it, or it has lost files.
                shutil.copytree(draft, into / name, dirs_exist_ok=True, copy_function=os.replace)
    except OSError as error:
        raise UserError(f"{into}: the sources cannot be copied there: {error.strerror}") from None
    return into / name


def snapshot_name() -> str:
    """Return a hash of the sources and their commit."""
    return sources_digest(ROOT)
