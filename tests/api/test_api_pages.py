"""What browsers get: pages, their policy, CORS, and where to connect."""

import re
from pathlib import Path

import attrs
import pytest
from api_rig import Site

import imserver
from imserver.http.pages import POLICY, load_pages

WEB = Path(imserver.__file__).parent / "web"
PAGES = ["/", "/docs", "/docs/", "/docs/docs.js", "/docs/docs.css", "/imserver.js", "/admin", "/admin/"]


@pytest.mark.parametrize("path", PAGES)
def test_pages(site, path):
    """Each has a type, the policy, an ETag that saves the second transfer, and the same head by HEAD."""
    answer = site.get(path)
    assert (answer.status, answer.headers["content-security-policy"]) == (200, POLICY)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    kind = {".js": "text/javascript", ".css": "text/css"}.get(Path(path).suffix, "text/html")
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    tag = answer.headers["etag"]
    for wanted in (tag, f'"other", W/{tag}', "*"):
        again = site.get(path, headers={"If-None-Match": wanted})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert site.get(path, headers={"If-None-Match": '"other"'}).body == answer.body
    head = site.ask("HEAD", path)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(answer.body)))
    assert site.post(path).status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../config.py",
        "/docs/../../config.py",
        "/docs/%2e%2e/%2e%2e/config.py",
        "/docs/..%2f..%2fconfig.py",
        "/docs%5c..%5cconfig.py",
        "//etc/passwd",
        "/docs/docs.js/",
        "/docs//docs.js",
        "/docs/docs.js%00.css",
        "/DOCS/docs.js",
        "/web/docs/docs.js",
    ],
)
def test_no_way_out_of_the_folder(site, path):
    """Nothing is there but the files themselves, under their own names."""
    assert site.get(path).status in (400, 404)


def test_pages_name_no_other_host():
    """Nothing that the server serves has an address of elsewhere, but for XML's namespaces, which nobody fetches."""
    found = []
    for file in WEB.rglob("*"):
        if file.suffix in (".html", ".js", ".css", ".svg", ".json", ".webmanifest"):
            text = file.read_text(encoding="utf-8")
            text = re.sub(r"/\*.*?\*/|<!--.*?-->|(?m:^\s*//.*$)", "", text, flags=re.DOTALL)
            found += [
                (file.name, url)
                for url in re.findall(r"""(?:https?|wss?)://[\w.-]+[^\s"'`)]*""", text)
                if not re.match(
                    r"http://www\.w3\.org/|(?:https?|wss?)://(?:localhost|127\.0\.0\.1|[\w.-]*example\.(?:org|com))", url
                )
            ]
    assert found == []


def test_pages_have_no_inline_code():
    """The policy forbids it, so a page that had some would be broken."""
    for file in WEB.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"<script(?![^>]*\ssrc=)[^>]*>|<style|\son\w+=|\sstyle=|javascript:", text), file


def test_hidden_files_are_no_pages(tmp_path):
    """Files that begin with a dot, and what Python leaves, are not served; index.html stands for its folder."""
    for name in (".env", "a/.git/config", "a/__pycache__/x.pyc", "a/index.html", "b.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert sorted(page.path for page in load_pages(tmp_path)) == ["/a", "/a/", "/a/index.html", "/b.js"]


def test_without_the_web_client(make_server):
    """http.web_client = false: no pages but the documentation."""
    site = Site(make_server({"http.web_client": "false"}))
    assert [site.get(path).status for path in ("/", "/imserver.js", "/admin", "/docs", "/docs/docs.js")] == [
        404,
        404,
        404,
        200,
        200,
    ]
    assert site.get("/healthz").status == 200


# ---------------------------------------------------------------- other sites' pages

FRIEND = "https://chat.example.org"


@pytest.fixture
def cors(make_server):
    """A server that lets one other origin in."""
    return Site(make_server({"http.allowed_origins": f'["self", "{FRIEND}"]'}))


def test_a_listed_origin(cors):
    """It may ask, with all headers of this API, and read what answers say; errors included, cookies never."""
    asked = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization, idempotency-key, x-im-user",
    }
    preflight = cors.ask("OPTIONS", "/v1/users/me", headers={"Origin": FRIEND, **asked})
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (200, FRIEND)
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    assert "idempotency-key" in preflight.headers["access-control-allow-headers"].lower()
    for path, status in (("/v1/discover", 200), ("/v1/devices", 401), ("/v1/nothing", 404)):
        answer = cors.get(path, headers={"Origin": FRIEND})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, FRIEND)
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert "origin" in answer.headers["vary"].lower()


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example.org", "null", "http://chat.example.org", FRIEND + ".evil.org", FRIEND + ":444", "HTTPS://x"],
)
def test_other_origins(cors, origin):
    """Their pages can read nothing here, and a preflight is refused."""
    assert "access-control-allow-origin" not in cors.get("/v1/discover", headers={"Origin": origin}).headers
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = cors.ask("OPTIONS", "/v1/messages", headers=asked)
    assert preflight.status == 400
    assert "access-control-allow-origin" not in preflight.headers


def test_without_listed_origins(site, alice):
    """By default no other site's page gets anything; one's own page sends its Origin, too, and is answered."""
    answer = alice.get("/v1/conversations", headers={"Origin": FRIEND})
    assert "access-control-allow-origin" not in answer.done() | answer.headers
    asked = {"Origin": FRIEND, "Access-Control-Request-Method": "POST"}
    assert site.ask("OPTIONS", "/v1/messages", headers=asked).status == 405


# ---------------------------------------------------------------- discover


@pytest.mark.parametrize(
    ("host", "http", "tcp"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080", "127.0.0.1"),
        ("localhost", "http://localhost", "localhost"),
        ("[::1]:8080", "http://[::1]:8080", "[::1]"),
        ("[::1]", "http://[::1]", "[::1]"),
        ("chat.example.org", "http://chat.example.org", None),
    ],
)
def test_discover(site, described, host, http, tcp):
    """The name by which the client has reached the server; a TCP listener on the loopback is not there for others."""
    answer = site.get("/v1/discover", headers={"Host": host})
    described.check_answer("GET", "/v1/discover", answer)
    endpoints = answer.done()["endpoints"]
    assert (endpoints["http"], endpoints["ws"]) == (http, http.replace("http", "ws", 1) + "/ws")
    port = site.server.ready["tcp"][0].rpartition(":")[2]
    assert endpoints.get("tcp") == (None if tcp is None else f"{tcp}:{port}")


def test_discover_behind_a_proxy(make_server):
    """A trusted proxy says by which scheme it was asked; from anybody else the header means nothing."""
    said = {"Host": "chat.example.org", "X-Forwarded-Proto": "https"}
    trusting = Site(make_server({"proxy.trusted": '["127.0.0.0/8"]', "tcp.listen": "0.0.0.0:0"}, name="trusting"))
    endpoints = trusting.get("/v1/discover", headers=said).done()["endpoints"]
    port = trusting.server.ready["tcp"][0].rpartition(":")[2]
    assert endpoints == {
        "http": "https://chat.example.org",
        "ws": "wss://chat.example.org/ws",
        "tcp": f"chat.example.org:{port}",
    }
    other = Site(make_server(name="other"))
    assert other.get("/v1/discover", headers=said).done()["endpoints"]["http"] == "http://chat.example.org"


def test_pages_are_whole(tmp_path):
    """A page is what its file is, in bytes."""
    (tmp_path / "x.css").write_bytes(b"a\r\n\xc3\xa9")
    (page,) = load_pages(tmp_path)
    assert attrs.asdict(page)["body"] == b"a\r\n\xc3\xa9"
