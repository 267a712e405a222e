"""The page /docs in a real browser, and docs/reference/http.md against the program."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from process import PASSWORD

from imserver.http.resources import RESOURCES

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "http.md"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; install it: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_the_page_shows_and_tries_every_path(browser, site, described):
    """Every operation opens; a search finds; a login and a request work; no error, and nobody else is asked."""
    user, peer = site.server.register(), site.server.register()
    root = f"http://{site.address}"
    troubles, asked = [], []
    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: message.type in ("error", "warning") and troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(f"{root}/docs")
        page.wait_for_selector(".operation")
        shown = set(page.eval_on_selector_all(".operation", "all => all.map(one => one.id)"))
        assert shown == {one["operationId"] for path in described.api["paths"].values() for one in path.values()}
        page.eval_on_selector_all(".operation", "all => all.forEach(one => { one.open = true })")
        page.wait_for_function(
            "document.querySelectorAll('.operation .try').length === document.querySelectorAll('.operation').length"
        )
        assert "over a limit" in page.locator("#post_v1_users .errors").text_content()
        page.eval_on_selector_all(".operation", "all => all.forEach(one => { one.open = false })")

        page.keyboard.press("/")
        page.keyboard.type("send_batch")
        assert page.locator(".operation:visible").count() == 2
        page.keyboard.press("Escape")
        assert page.locator(".operation:visible").count() == len(shown)

        page.fill("#user", user)
        page.fill("#password", PASSWORD)
        page.click("#who button[type=submit]")
        page.wait_for_selector("#who-state.good")
        page.goto(f"{root}/docs#post_v1_messages")
        form = page.locator("#post_v1_messages .try")
        form.locator("textarea").fill(f'{{"to": "{peer}", "body": "<img src=x onerror=alert(1)>"}}')
        assert "curl -X POST" in form.locator(".curl").inner_text()
        assert "$TOKEN" in form.locator(".curl").inner_text()
        form.locator("button[type=submit]").click()
        page.wait_for_selector("#post_v1_messages .answer .good")
        assert '"seq": 1' in form.locator(".answer pre").inner_text()

        pull = "get_v1_conversations_conversation_id_messages"
        page.goto(f"{root}/docs#{pull}")
        page.locator(f"#{pull} .try input").first.fill("d:" + ":".join(sorted((user, peer))))
        page.locator(f"#{pull} .try button[type=submit]").click()
        page.wait_for_selector(f"#{pull} .answer .good")
        assert "<img src=x" in page.locator(f"#{pull} .answer pre").inner_text()  # as text

        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
    finally:
        page.close()
    assert troubles == []
    assert [url for url in asked if not url.startswith((root + "/", "data:"))] == []


# ---------------------------------------------------------------- the reference


def test_the_reference_has_every_path():
    """The table has each resource with its command, its query fields and whether it has a body, in their order."""
    rows = re.findall(
        r"^\| `(\w+) (/v1/[^`]+)` \| (\d+) [A-Z_]+ \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    told = [
        (method, path, int(number), re.findall("`(.*?)`", fields), "body" in fields) for method, path, number, fields in rows
    ]
    assert told == [
        (one.method, one.path.replace(":int", ""), one.command_id, [*one.query, *one.fixed], one.has_body)
        for one in RESOURCES
    ]


def test_the_session_of_the_reference_runs(make_server):
    """The first session, word for word but for the server's address."""
    server = make_server()
    script = re.search(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    script = script.replace("http://127.0.0.1:8080", f"http://{server.ready['http'][0]}")
    done = subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"code":0') == 8
    assert '"duplicate":true' in done.stdout
    assert '"body":"Hello, Ben!"' in done.stdout
