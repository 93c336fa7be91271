"""Real client: lancedb.connect("db://...", host_override=...), LanceDB's remote client, with the server as its cloud.

usage: python lancedb_remote.py http://127.0.0.1:2333 [flow ...]
needs: pip install lancedb pandas

The flows are in lancedb_flows/, one module per capability. This script runs all of them (or those named) and tells what
failed.
"""

import sys
import time
import traceback
import warnings

from lancedb_flows import (  # noqa: F401 (a module that is imported has its flows listed)
    asynchronous,
    blobs,
    columns,
    databases,
    embeddings,
    errors,
    indexes,
    jobs,
    namespaces,
    reading,
    tables,
    text,
    uploads,
    vectors,
    versions,
    world,
    writing,
)


def main():
    # lancedb announces its next major version with every call.
    warnings.simplefilter("ignore")
    base, wanted = sys.argv[1].rstrip("/"), sys.argv[2:]
    world.connect(base)
    failed = []
    for name in wanted or world.FLOWS:
        started = time.monotonic()
        try:
            world.FLOWS[name]()
            outcome = "ok"
        except Exception:
            failed.append(name)
            outcome = "FAILED\n" + traceback.format_exc(limit=-6)
        print(f"{name}: {outcome} ({time.monotonic() - started:.2f} s)", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
