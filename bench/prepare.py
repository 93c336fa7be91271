"""What bench/commits needs pylance for outside of what it measures.

usage: python prepare.py body FILE                an Arrow stream of 100 rows
       python prepare.py fragments COUNT FOLDER ...  writes COUNT fragments of 100 rows into the folder of each table, and
                                                  prints their JSON, one on a line, table by table
       python prepare.py big COUNT FOLDER         fills a table up to COUNT fragments of 100 rows; makes it if absent
       python prepare.py count FOLDER ...         rows, version and fragments of each table, one on a line
"""
import json
import os
import sys
import uuid

import lance
import pyarrow as pa
from lance.fragment import write_fragments

SCHEMA = pa.schema([("id", pa.int64()), ("s", pa.string())])
ROWS = 100
AT_ONCE = 10_000  # fragments in one commit; a file can have some 65 000 names


def rows(first):
    ids = range(first, first + ROWS)
    return pa.table({"id": pa.array(ids, pa.int64()), "s": [f"row{i}" for i in ids]}, schema=SCHEMA)


def body(path):
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(rows(0))


def fragments(count, folders):
    for folder in folders:
        dataset = lance.dataset(folder)
        for number in range(count):
            for fragment in write_fragments(rows(number * ROWS), dataset, schema=SCHEMA):
                print(json.dumps(fragment.to_json()))


def big(count, folder):
    """One file in ten thousand is written; the others are further names of it, which no reader can tell from files of
    their own."""
    if not os.path.exists(folder):
        lance.write_dataset(rows(0), folder)
    dataset, data = lance.dataset(folder), os.path.join(folder, "data")
    made = len(dataset.get_fragments())
    while made < count:
        [first] = write_fragments(rows(0), folder, schema=SCHEMA)
        first, batch = first.to_json(), []
        [file] = first["files"]
        for _ in range(min(AT_ONCE, count - made)):
            name = f"{uuid.uuid4().hex}.lance"
            os.link(os.path.join(data, file["path"]), os.path.join(data, name))
            batch.append(lance.FragmentMetadata.from_json(json.dumps({**first, "files": [{**file, "path": name}]})))
        dataset = lance.LanceDataset.commit(dataset, lance.LanceOperation.Append(batch), read_version=dataset.version)
        made += len(batch)


def count(folders):
    for folder in folders:
        dataset = lance.dataset(folder)
        print(dataset.count_rows(), dataset.version, len(dataset.get_fragments()))


def main():
    what, *args = sys.argv[1:]
    if what == "body":
        body(*args)
    elif what == "fragments":
        fragments(int(args[0]), args[1:])
    elif what == "big":
        big(int(args[0]), args[1])
    elif what == "count":
        count(args)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
