"""Makes `NAME.tar.xz` and `NAME.json` of the program that is installed, or in PYTHONPATH: its data, and what its users read.

Run it with the program of a release, once, before the release after it:

    PYTHONPATH=FOLDER/OF/THE/RELEASE:tests python tests/releases/make_fixture.py NAME
"""

import json
import sys
import tarfile
import tempfile
from pathlib import Path

from process import Server
from story import read, tell

HERE = Path(__file__).parent


def main(name):
    """Tell a server the story, stop it, and pack its folder."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder)).start()
        try:
            file_id = tell(server)
            told = {"file_id": file_id, "everything": read(server, file_id)}
            server.stop()
        finally:
            server.discard()
        (HERE / f"{name}.json").write_text(json.dumps(told, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
        with tarfile.open(HERE / f"{name}.tar.xz", "w:xz") as archive:
            archive.add(server.data, "data")


if __name__ == "__main__":
    main(*sys.argv[1:])
