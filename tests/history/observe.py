"""What stands: every version of a table in storage, read with plain pylance, and what the catalog lists."""

import collections
import dataclasses
import pathlib

import lance

COLUMNS = ["op", "part", "x", "last"]
NEWEST_FIRST = (1 << 64) - 1


@dataclasses.dataclass
class VersionSeen:
    number: int
    #: How many rows live in it.
    rows: int
    #: Rows (op, part, x, last) that the version before does not have, and those that it has and this one has not.
    added: list
    removed: list
    #: Rows of one name that are there more than once.
    doubled: list
    columns: list


@dataclasses.dataclass
class TableSeen:
    name: str
    location: str
    versions: list = dataclasses.field(default_factory=list)
    #: The version of each manifest at a final name.
    manifests: list = dataclasses.field(default_factory=list)
    #: The versions that the catalog lists, in its order, oldest and newest first; None when nobody asked it.
    listed_up: list | None = None
    listed_down: list | None = None
    #: What the catalog says of who made each version: version to `catalog` or `foreign`.
    origins: dict = dataclasses.field(default_factory=dict)
    #: All rows as a query through the catalog answers them.
    queried: list | None = None
    #: What could not be read at all.
    broken: list = dataclasses.field(default_factory=list)

    def rows_now(self):
        rows = collections.Counter()
        for version in self.versions:
            rows.update(version.added)
            rows.subtract(version.removed)
        return +rows

    def holding(self, token):
        """The versions that changed rows of an operation, or by it, in words."""
        lines = []
        for version in self.versions:
            added = [row for row in version.added if token in (row[0], row[3])]
            names = {row[:2] for row in added}
            removed = [row for row in version.removed if token in (row[0], row[3]) or row[:2] in names]
            if added or removed:
                lines.append(f"version {version.number} adds {added} and removes {removed}")
        return lines


def look(name, location):
    """Reads every version of a table. A fragment that did not change since the version before is not read again."""
    seen = TableSeen(name, location)
    seen.manifests = manifests(location)
    try:
        newest = lance.dataset(location).version
    except Exception as error:
        seen.broken.append(f"it cannot be opened: {error}")
        return seen
    state, present = collections.Counter(), collections.Counter()
    rows_of = {}
    for number in range(1, newest + 1):
        try:
            dataset = lance.dataset(location, version=number)
            fragments = {key_of(fragment): fragment for fragment in dataset.get_fragments()}
            keys = collections.Counter(key_of(fragment) for fragment in dataset.get_fragments())
            fresh = {key: read(fragments[key]) for key in keys if key not in rows_of}
        except Exception as error:
            seen.broken.append(f"version {number} cannot be read: {error}")
            continue
        rows_of.update(fresh)
        added, removed = difference(keys - state, state - keys, rows_of)
        present.update(row[:2] for row in added)
        present.subtract(row[:2] for row in removed)
        doubled = [name for name in {row[:2] for row in added} if present[name] > 1]
        columns = [field.name for field in dataset.schema if field.name not in COLUMNS]
        rows = sum(count * len(rows_of[key]) for key, count in keys.items())
        seen.versions.append(VersionSeen(number, rows, added, removed, doubled, columns))
        for key in state - keys:
            rows_of.pop(key, None) if key not in keys else None
        state = keys
    return seen


def key_of(fragment):
    """What a fragment holds: the same files with the same deletions are the same rows."""
    return tuple(file.path for file in fragment.data_files()), str(fragment.deletion_file())


def read(fragment):
    table = fragment.to_table(columns=COLUMNS)
    return list(zip(*(table[name].to_pylist() for name in COLUMNS)))


def difference(came, went, rows_of):
    """The rows of fragments that came and of those that went, without what is in both."""
    added, removed = collections.Counter(), collections.Counter()
    for keys, counter in ((came, added), (went, removed)):
        for key, count in keys.items():
            for row in rows_of[key]:
                counter[row] += count
    return list((added - removed).elements()), list((removed - added).elements())


def manifests(location):
    found = []
    for file in (pathlib.Path(location) / "_versions").iterdir():
        if file.suffix == ".manifest":
            number = int(file.stem)
            found.append(NEWEST_FIRST - number if len(file.stem) == 20 else number)
    return sorted(found)
