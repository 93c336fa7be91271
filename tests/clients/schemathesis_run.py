"""schemathesis against the document that the server gives of itself: everything it says must be so.

usage: python schemathesis_run.py http://127.0.0.1:2333 [option of `schemathesis run` ...]
needs: pip install schemathesis pyarrow

Fails on a 5xx, on a status, content type or body that /openapi.json does not have, on wrong data that is accepted, on
a method that is not refused properly, and on a request without an answer. Seeded and bounded in time: the coverage of
every operation comes first, then random requests for as long as there is time.
"""

import os
import pathlib
import subprocess
import sys
import urllib.request

SECONDS = 120
SECONDS_PER_REQUEST = 30
SEED = 20_110

# Data can fit the document and still be refused, because of what is there or what it means: a filter that cannot be
# parsed, an index kind that does not fit the column, a form of an operation that is not served (406).
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 406, 409]
"""


# What Python 3.11 says now and then when two threads look at source: no finding of schemathesis.
OF_PYTHON = "AST constructor recursion depth mismatch"


def run(command, environment):
    done = subprocess.run(command, env=environment, timeout=SECONDS + 180, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    return done


def main():
    base, options = sys.argv[1].rstrip("/"), sys.argv[2:]
    configuration = pathlib.Path("schemathesis.toml")
    configuration.write_text(CONFIGURATION)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)]
    command += ["run", f"{base}/openapi.json", "--checks", "all", "--phases", "examples,coverage,fuzzing"]
    command += ["--seed", str(SEED), "--max-time", str(SECONDS), "--request-timeout", str(SECONDS_PER_REQUEST)]
    command += ["--max-response-time", str(SECONDS_PER_REQUEST), "--workers", "2", "--continue-on-failure"]
    command += ["--generation-database", "none", "--output-sanitize", "false", "--no-color", *options]
    here = str(pathlib.Path(__file__).parent)
    environment = {
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "TILTYARD_UNDER_TEST": base,
        "PYTHONPATH": here,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # The time that schemathesis keeps, and some more to start and to make a report.
    done = run(command, os.environ | environment)
    if done.returncode and OF_PYTHON in done.stdout:
        done = run([*command, "--workers", "1"], os.environ | environment)
    health = urllib.request.urlopen(f"{base}/healthz", timeout=SECONDS_PER_REQUEST)
    assert health.status == 200, "the server has suffered"
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
