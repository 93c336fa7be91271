"""Appends to many tables with pylance alone, each table with one writer: what bench/commits compares with.

Each process has its share of the tables and goes round them, one commit after the other. As in direct_commits.py, the
fragments are written before the time begins, and each commit first asks for the newest version.

usage: python direct_tables.py FOLDER PROCESSES TABLES COMMITS
"""
import json
import multiprocessing
import os
import sys
import time

import lance
from lance.fragment import write_fragments

from prepare import ROWS, SCHEMA, rows


def table(folder, number):
    return os.path.join(folder, f"t{number}.lance")


def work(folder, mine, commits, events, go):
    prepared = []
    for number in mine:
        dataset = lance.write_dataset(rows(0), table(folder, number))
        prepared.append([write_fragments(rows(i * ROWS), dataset, schema=SCHEMA) for i in range(commits)])
    events.put(None)
    go.wait()
    latencies_s, errors, why = [], 0, ""
    for turn in range(commits):
        for number, fragments in zip(mine, prepared):
            uri, begin = table(folder, number), time.monotonic()
            try:
                version = lance.dataset(uri).version
                lance.LanceDataset.commit(uri, lance.LanceOperation.Append(fragments[turn]), read_version=version)
                latencies_s.append(time.monotonic() - begin)
            except OSError as error:
                errors, why = errors + 1, str(error)[:200]
    events.put((latencies_s, errors, why))


def main():
    folder, processes, tables, commits = sys.argv[1], *map(int, sys.argv[2:])
    os.makedirs(folder)
    context = multiprocessing.get_context("spawn")
    events, go = context.Queue(), context.Event()
    shares = [range(n, tables, processes) for n in range(processes)]
    workers = [context.Process(target=work, args=(folder, share, commits, events, go)) for share in shares]
    for worker in workers:
        worker.start()
    for _ in workers:
        events.get()
    begin = time.monotonic()
    go.set()
    results = [events.get() for _ in workers]
    elapsed_s = time.monotonic() - begin
    for worker in workers:
        worker.join()
    latencies_s = sorted(latency for result in results for latency in result[0])
    print(json.dumps({
        "acknowledged": len(latencies_s),
        "errors": sum(result[1] for result in results),
        "why": next((result[2] for result in results if result[2]), ""),
        "elapsed_s": elapsed_s,
        "p50_ms": latencies_s[len(latencies_s) // 2] * 1e3,
        "p99_ms": latencies_s[int(len(latencies_s) * 0.99)] * 1e3,
    }))


if __name__ == "__main__":
    main()
