"""schemathesis against a real server: `python tests/api/run_schemathesis.py [seconds]`; the tox environment `schemathesis`.

It is no pytest module: it takes minutes, and has a report of its own. Exit status 0: nothing found.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from process import Server  # noqa: E402

#: An operation of a command has the same request as its resource path; schemathesis gets both.
MAX_EXAMPLES = 30


def make_key(server):
    """An API key that may do all: it is not ended by a LOGOUT, a KICK or a CHANGE_PASSWORD that schemathesis tries."""
    command = [sys.executable, "-m", "imserver", "--set", f"server.data_dir={server.data}"]
    command += ["token", "key", "add", "schemathesis", "--scope", "*", "--scope", "admin"]
    made = subprocess.run(command, cwd=server.folder, capture_output=True, text=True, check=True)
    return next(word for word in made.stdout.split() if word.startswith("imk_"))


def description_for_key(site):
    """The server's description without bearer tokens: a request with a token beside a key is refused."""
    with urllib.request.urlopen(f"{site}/openapi.json") as answer:
        description = json.load(answer)
    del description["components"]["securitySchemes"]["bearer"]
    for path in description["paths"].values():
        for operation in path.values():
            operation["security"] = [one for one in operation["security"] if "bearer" not in one]
    return description


def main():
    seconds = sys.argv[1] if len(sys.argv) > 1 else "120"
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), {"limits.registrations_per_hour": 1_000_000, "server.shards": 2}).start()
        try:
            for user in ("alice", "bob", "tester"):
                server.register(user)
            key = make_key(server)
            site = f"http://{server.ready['http'][0]}"
            path = Path(folder) / "openapi.json"
            path.write_text(json.dumps(description_for_key(site)))
            command = ["schemathesis", "--config-file", str(HERE / "schemathesis.toml"), "run", str(path), "--url", site]
            command += ["-H", f"X-API-Key: {key}", "-H", "X-IM-User: tester"]
            command += ["--max-examples", str(MAX_EXAMPLES), "--max-time", seconds, "--continue-on-failure", "--no-color"]
            command += sys.argv[2:]
            status = subprocess.run(command, env={**os.environ, "NO_COLOR": "1"}, cwd=folder).returncode
            assert server.alive, server.text()[-4000:]
            assert server.stop() == 0, server.text()[-4000:]
            faults = [line for line in server.lines if '"level":"error"' in line.replace(" ", "") or "Traceback" in line]
            print(f"{len(faults)} faults in the server's log", *faults[:10], sep="\n")
            return status or bool(faults)
        finally:
            server.discard()


if __name__ == "__main__":
    sys.exit(main())
