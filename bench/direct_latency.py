"""What Lance itself needs to put one more version on a table: what bench/commits compares the latency with.

One fragment after the other is appended to a handle that is never opened again, so that of the old manifest nothing is
read. The fragments are written before the time begins; the first commits are not counted.

usage: python direct_latency.py FOLDER COMMITS UNCOUNTED
"""
import json
import sys
import time

import lance
from lance.fragment import write_fragments

from prepare import ROWS, SCHEMA, rows


def main():
    folder, commits, uncounted = sys.argv[1], *map(int, sys.argv[2:])
    dataset = lance.dataset(folder)
    prepared = [write_fragments(rows(i * ROWS), dataset, schema=SCHEMA) for i in range(commits + uncounted)]
    latencies_s = []
    for fragments in prepared:
        begin = time.monotonic()
        dataset = lance.LanceDataset.commit(dataset, lance.LanceOperation.Append(fragments), read_version=dataset.version)
        latencies_s.append(time.monotonic() - begin)
    print(json.dumps(latencies_s[uncounted:]))


if __name__ == "__main__":
    main()
