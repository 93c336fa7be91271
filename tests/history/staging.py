"""Versions as a client with managed versioning makes them: the data is there, and the manifest waits under a name that
nobody looks for."""

import os
import pathlib
import shutil
import tempfile
import uuid

import lance

NEWEST_FIRST = (1 << 64) - 1


def manifest_name(version):
    return f"{NEWEST_FIRST - version:020}.manifest"


def stage(location, table):
    """Stages an append to the newest version. Answers the fields of CreateTableVersion."""
    place = pathlib.Path(location)
    with tempfile.TemporaryDirectory(prefix="tiltyard-staging-") as scratch:
        version = lance.dataset(location).version
        # An append reads nothing but the manifest that it builds on.
        copy = pathlib.Path(scratch) / "copy"
        (copy / "_versions").mkdir(parents=True)
        shutil.copy(place / "_versions" / manifest_name(version), copy / "_versions")
        made = lance.write_dataset(table, str(copy), mode="append").version
        assert made == version + 1, (made, version)
        for folder in ("data", "_transactions"):
            for file in (copy / folder).iterdir() if (copy / folder).is_dir() else ():
                (place / folder).mkdir(exist_ok=True)
                shutil.copy(file, place / folder)
        staged = place / "_versions" / f"{manifest_name(made)}-{uuid.uuid4()}"
        shutil.copy(copy / "_versions" / manifest_name(made), staged)
    return {
        "version": made,
        "manifest_path": str(staged).lstrip("/"),
        "manifest_size": os.path.getsize(staged),
        "naming_scheme": "V2",
    }
