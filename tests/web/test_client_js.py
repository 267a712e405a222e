"""imserver.js: its unit tests, and two of its clients on a server that dies meanwhile."""

import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COUNT = 120


def run_unit_tests(node, name, **environment):
    done = subprocess.run(
        [*node, "--test", "--test-reporter=spec", str(HERE / name)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fail 0" in done.stdout
    assert "pass 0" not in done.stdout
    assert "Error:" not in done.stdout, "an error that nobody caught"


def test_unit(node, imserver_js):
    """The unit tests of imserver.js, against a scripted socket, all pass."""
    run_unit_tests(node, "client_unit.test.mjs", IMSERVER_JS=str(imserver_js))


def test_unit_of_the_page(node, tmp_path):
    """The unit tests of what decides when the page is drawn anew, all pass."""
    copy = tmp_path / "emitter.mjs"  # a name that every Node takes for a module
    copy.write_bytes((HERE.parents[1] / "imserver" / "web" / "app" / "emitter.js").read_bytes())
    run_unit_tests(node, "emitter_unit.test.mjs", EMITTER_JS=str(copy))


def test_unit_of_what_messages_look_like(node, tmp_path):
    """The unit tests of how the page shows messages, whatever is in them, all pass."""
    web = HERE.parents[1] / "imserver" / "web"
    for path in [web / "imserver.js", *(web / "app").glob("*.js")]:
        text = re.sub(r'"/(?:app/)?([\w-]+)\.js"', r'"./\1.mjs"', path.read_text(encoding="utf-8"))
        (tmp_path / f"{path.stem}.mjs").write_text(text, encoding="utf-8")
    run_unit_tests(node, "page_unit.test.mjs", PAGE_MODULES=str(tmp_path))


def test_exactly_once_through_kills(node, imserver_js, web_server):
    """Through cut connections, a reload and a server that dies: each message once, in order, and unread exact."""
    url = web_server.url.replace("http", "ws", 1) + "ws"
    process = subprocess.Popen(
        [*node, str(HERE / "client_server.mjs"), str(imserver_js), url, str(COUNT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    try:
        assert process.stdout.readline() == "ready\n", process.stderr
        for _ in range(2):
            web_server.kill()
            web_server.start()
        result = process.stdout.read()
        process.wait(240)
        reader.join()
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        reader.join()
        process.stderr.close()
    report = json.loads(result)
    for who in ("anna", "ben"):
        seen = report["seen"][who]
        assert [seq for seq, _, _ in seen] == list(range(1, 2 * COUNT + 1))
        for sender, letter in (("anna", "a"), ("ben", "b")):
            assert [body for _, source, body in seen if source == sender] == [f"{letter}{index}" for index in range(COUNT)]
    assert report["seen"]["anna"] == report["seen"]["ben"]
    assert report["outgoing"] == [0, 0]
    assert report["unread"] == [0, 0]
    assert report["unreadAtServer"] == 0
    assert report["peerRead"] == 2 * COUNT


def test_examples_of_the_reference_run(node, imserver_js, web_server):
    """Every example of the client's reference page does what it says on a real server, without an error."""
    for name in ("ben", "mia"):
        web_server.register(name)
    url = web_server.url.replace("http", "ws", 1) + "ws"
    page = HERE.parents[1] / "docs" / "reference" / "javascript-client.md"
    done = subprocess.run(
        [*node, str(HERE / "client_examples.mjs"), str(imserver_js), url, str(page)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) examples", done.stdout)[1]) >= 8


def test_no_foreign_words_in_files():
    """The page's files name no other host, build no markup from strings, and every module stays small."""
    web = HERE.parents[1] / "imserver" / "web"
    for path in [web / "index.html", web / "imserver.js", *sorted((web / "app").glob("*"))]:
        text = path.read_text(encoding="utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "onclick=",
            "style=",
            "<script>",
            "<style",
        ):
            assert word not in text, f"{path.name}: {word}"
        for address in ("http://", "https://"):
            for place in text.split(address)[1:]:
                host = place.split("/")[0].split('"')[0]
                assert host == "www.w3.org" or not host[:1].isalnum(), f"{path.name}: {address}{host}"
        if path.suffix == ".js" and path.name != "imserver.js":
            assert text.count("\n") < 400, path.name


def test_languages_have_the_same_texts():
    """Every text exists in English and in Chinese, with the same places to fill in, and every key that is used exists."""
    app = HERE.parents[1] / "imserver" / "web" / "app"
    tables = {}
    for name in ("en", "zh"):
        block = (app / f"texts-{name}.js").read_text(encoding="utf-8")
        tables[name] = dict(re.findall(r'(\w+): "((?:[^"\\]|\\.)*)"', block))
    assert tables["en"].keys() == tables["zh"].keys()
    for key, text in tables["en"].items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", tables["zh"][key])), key
    used = set()
    for path in app.glob("*.js"):
        used |= set(re.findall(r'\bt\("(\w+)"', path.read_text(encoding="utf-8")))
    words = (app / "text.js").read_text(encoding="utf-8")
    refusals = re.search(r"REFUSALS = new Set\(\[(.*?)\]\)", words, re.DOTALL)
    used |= {f"refused_{name}" for name in re.findall(r'"(\w+)"', refusals[1])}
    assert used <= tables["en"].keys()


def test_types_hold(tmp_path):
    """The TypeScript compiler finds the types that imserver.js names in its comments to be right."""
    tsc = os.environ.get("IMSERVER_TSC") or shutil.which("tsc")
    if tsc is None:
        pytest.skip("needs the TypeScript compiler: apt install node-typescript, or name it in IMSERVER_TSC")
    source = HERE.parents[1] / "imserver" / "web" / "imserver.js"
    words = ["--checkJs", "--allowJs", "--noEmit", "--target", "esnext", "--lib", "dom,dom.iterable,esnext"]
    done = subprocess.run([tsc, *words, str(source)], capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
