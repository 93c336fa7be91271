"""Real client: every operation of the spec through lance_namespace_urllib3_client, the client generated from it.

usage: python namespace_rest.py http://127.0.0.1:2333 [OperationId ...]
needs: pip install lance-namespace pylance; the server's tables must be on this machine's disk

The checks are in rest_operations/, one function per operation. This script runs all of them (or those named), tells
what failed, and in the end compares what was called with the operations of the upstream document.
"""

import json
import pathlib
import sys
import time
import traceback

from rest_operations import columns, data, indexes, namespaces, tables, transactions, versions, views, world

DOCUMENT = pathlib.Path(__file__).parent.parent / "upstream" / "lance-namespace-0.11.1.json"


def upstream():
    """The operations of the upstream document."""
    paths = json.loads(DOCUMENT.read_text())["paths"].values()
    return {
        method["operationId"]
        for path in paths
        for method in path.values()
        if isinstance(method, dict) and "operationId" in method
    }


def main():
    base, wanted = sys.argv[1].rstrip("/"), sys.argv[2:]
    checks = world.OPERATIONS | {"full text search": data.check_full_text_search}
    assert set(world.OPERATIONS) == upstream(), set(world.OPERATIONS) ^ upstream()
    world.connect(base)
    failed = []
    for name in wanted or checks:
        started = time.monotonic()
        try:
            checks[name]()
            outcome = "ok"
        except Exception:
            failed.append(name)
            outcome = "FAILED\n" + traceback.format_exc(limit=-4)
        print(f"{name}: {outcome} ({time.monotonic() - started:.2f} s)", flush=True)
    if not wanted:
        missing = upstream() - world.ANSWERED
        assert failed or not missing, f"never answered: {sorted(missing)}"
        print(f"{len(checks) - len(failed)} of {len(checks)} checks passed, {len(world.ANSWERED)} operations answered")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
