"""What the tests of the web client share: node, a browser, a server process with the page, and a watch on every page."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from pages import CHROMIUM, PATIENCE_MS, Browser
from process import Server

WEB = Path(__file__).resolve().parents[2] / "imserver" / "web"
NODE_HINT = "needs Node 20 or later: apt install nodejs, or https://nodejs.org/"


def pytest_collection_modifyitems(items):
    """A page and a browser take longer than the other tests have."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def node():
    """The words that begin a `node` command line with a global WebSocket."""
    path = shutil.which("node")
    if path is None:
        pytest.skip(NODE_HINT)
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    major = int(version.lstrip("v").split(".")[0])
    if major < 20:
        pytest.skip(f"{NODE_HINT}; found {version}")
    return [path] if major >= 22 else [path, "--experimental-websocket"]


@pytest.fixture
def imserver_js(tmp_path):
    """imserver.js under a name that every Node takes for a module."""
    copy = tmp_path / "imserver.mjs"
    copy.write_bytes((WEB / "imserver.js").read_bytes())
    return copy


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server_settings():
    """More settings of `web_server`, by dotted key; a test module or a test may say its own."""
    return {}


@pytest.fixture
def web_server(tmp_path, server_settings):
    """A server process whose page keeps its address when the process is started again."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, {"http.listen": f"127.0.0.1:{free_port()}", **server_settings})
    server.start()
    server.url = f"http://{server.settings['http.listen']}/"
    yield server
    server.discard()


@pytest.fixture(scope="module")
def browser():
    """Chromium; the tests of this folder are plain functions, so Playwright's own loop may run here."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    executable = os.environ.get("IMSERVER_CHROMIUM") or shutil.which("chromium") or CHROMIUM
    if not Path(executable).exists():
        pytest.skip("needs Chromium: apt install chromium (or name it in IMSERVER_CHROMIUM)")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield chromium
        chromium.close()


@pytest.fixture
def windows(browser, web_server):
    """Opens windows on the page. At the end: no error on any console, no breach of the policy, no other host asked."""
    opened = Browser(browser, web_server)
    yield opened
    opened.close()
    assert opened.faults == []
