"""A writer that knows no catalog: pylance straight on the path of a table, in a process of its own.

usage: foreign.py NAME SEED RECORD LOCATION...

Writes to RECORD a line of JSON before each append and one after it. Ends with its standard input.
"""

import json
import random
import sys
import threading
import time

import lance

from client import rows


def main():
    name, seed, record, *locations = sys.argv[1:]
    choice = random.Random(int(seed))
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    sequence = 0
    with open(record, "w", buffering=1) as file:

        def say(**fields):
            file.write(json.dumps(fields) + "\n")

        while not over.is_set():
            sequence += 1
            location, count = choice.choice(locations), choice.randint(1, 4)
            token = f"{name}.{sequence}"
            say(token=token, location=location, count=count, sent=time.monotonic())
            data = rows([(token, part, 0, token) for part in range(count)])
            try:
                version = lance.write_dataset(data, location, mode="append").version
                say(token=token, version=version, ended=time.monotonic())
            except Exception as error:
                say(token=token, error=f"{type(error).__name__}: {str(error)[:200]}", ended=time.monotonic())
            over.wait(choice.uniform(0.1, 0.8))


if __name__ == "__main__":
    main()
