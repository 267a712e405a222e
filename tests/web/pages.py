"""A person in front of the page: what they see and do, in the words of the tests.

Nothing here or in the tests may look at the page once and take that for the answer: what comes from the server, or is drawn
in the next frame, is waited for. `wait_for`, `wait_words` and their like give it `PATIENCE_MS`, and then say what they saw.

IMSERVER_WEB_SLOW=6 slows the pages' processor down six times (Chromium's own throttling), which shows a test that looks too
early on a fast machine, too. Any factor from 1 serves; without the variable nothing is slowed down.
"""

from __future__ import annotations

import os
import re
import time
from urllib.parse import urlsplit

PASSWORD = "correct horse 7 battery"
CHROMIUM = "/usr/bin/chromium"
#: For each thing that is waited for. A loaded machine with two cores has taken more than 20 s; a pass never waits for it.
PATIENCE_MS = 60_000
SLOWNESS = float(os.environ.get("IMSERVER_WEB_SLOW") or 1)

#: Says what broke the content security policy, as console errors do not always.
_WATCH_POLICY = """addEventListener('securitypolicyviolation', (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
})"""

#: Remembers every short notice: it goes after a few seconds, which may be before a test looks.
_KEEP_TOASTS = """window.toastsSeen = [];
new MutationObserver((changes) => {
  for (const node of changes.flatMap(({ addedNodes }) => [...addedNodes])) {
    if (node.classList?.contains('toast')) window.toastsSeen.push(node.textContent);
  }
}).observe(document, { childList: true, subtree: true })"""

#: What the elements of a selector show: the texts of their nodes, hidden or not.
_WORDS = "(selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent)"


def wait_for(page, script, expected=True, arg=None):
    """Wait until a JavaScript function of `arg` gives `expected` (by its JSON); else say what it gave at the end."""
    same = f"""([arg, wanted]) => {{
      try {{ return JSON.stringify(({script})(arg)) === JSON.stringify(wanted); }} catch {{ return false; }}
    }}"""
    _wait(page, same, [arg, expected], lambda: f"expected {expected!r}, saw {page.evaluate(script, arg)!r} by {script}")


def _wait(page, script, arg, tell, patience_ms=PATIENCE_MS):
    """`wait_for_function`, whose failure says what `tell` tells."""
    from playwright.sync_api import TimeoutError as PatienceEnded

    try:
        page.wait_for_function(script, arg=arg, timeout=patience_ms)
    except PatienceEnded as error:
        raise AssertionError(tell()) from error


class Browser:
    """Windows on one server's page; notes everything that must not happen in any of them.

    Attributes:
        faults: console errors, uncaught errors, dialogs, requests to other hosts.
        is_offline_expected: network errors on the console are part of the test.
    """

    def __init__(self, chromium, server):
        self.chromium = chromium
        self.server = server
        self.faults = []
        self.is_offline_expected = False
        self._contexts = []

    def open(self, *, path="", **options):
        """A new window, with a storage of its own; `options` are Playwright's of a context."""
        options = {"locale": "en-US", "viewport": {"width": 1200, "height": 760}, **options}
        context = self.chromium.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(_WATCH_POLICY)
        context.add_init_script(_KEEP_TOASTS)
        self._contexts.append(context)
        return Window(self, self._page(context, path), context)

    def another(self, window):
        """One more window that shares the storage of this one."""
        return Window(self, self._page(window.context, ""), window.context)

    def _page(self, context, path):
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", self._request)
        if SLOWNESS > 1:
            page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWNESS})
        page.goto(self.server.url + path)
        return page

    def _console(self, message):
        if message.type not in ("error", "warning"):
            return
        if self.is_offline_expected and ("ERR_" in message.text or "WebSocket" in message.text):
            return
        self.faults.append(f"{message.type}: {message.text}")

    def _request(self, request):
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and url.netloc != urlsplit(self.server.url).netloc:
            self.faults.append(f"asks another host: {request.url}")

    def wait_fault(self, page, text):
        """Wait for a fault that is part of the test, and take it off the list."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not any(text in fault for fault in self.faults):
            assert time.monotonic() < deadline, f"no fault with {text!r}, but {self.faults}"
            page.wait_for_timeout(20)  # lets the events of the page come
        self.faults.remove(next(fault for fault in self.faults if text in fault))

    def close(self):
        for context in self._contexts:
            context.close()


class Window:
    """One window on the page."""

    def __init__(self, browser, page, context):
        self.browser = browser
        self.page = page
        self.context = context

    # --- the first screen

    def register(self, user_id, nickname="", *, remember=False, wait=True):
        """Make an account; returns when the chat is there, or at once: `wait_ready` waits for it."""
        self._enter(user_id, remember, nickname=nickname, wait=wait)
        return self

    def log_in(self, user_id, *, remember=False):
        self.page.click(".tab >> nth=1")
        self._enter(user_id, remember)
        return self

    def _enter(self, user_id, remember, nickname="", wait=True):
        self.page.fill("[name=user_id]", user_id)
        if nickname:
            self.page.fill("[name=nickname]", nickname)
        self.page.fill("[name=password]", PASSWORD)
        if remember:
            self.page.check("[name=remember]")
        self.page.click("button[type=submit]")
        if wait:
            self.wait_ready()

    def wait_ready(self):
        """The overview is complete, and the page knows what the server can do: the menus have all their entries."""
        self.page.wait_for_selector(".sidebar", state="attached")
        self.page.wait_for_selector(".sidebar > .list .list-row, .list-empty:not([hidden])", state="attached")
        self.page.wait_for_selector(".new-button:not([hidden])", state="attached")

    # --- the chat

    def write_to(self, user_id):
        """Start a conversation from the welcome screen."""
        self.page.fill("[name=peer]", user_id)
        self.page.press("[name=peer]", "Enter")
        self.page.wait_for_selector(".composer-field")
        return self

    def open(self, name=""):
        """Open the first conversation of the list, or the one that shows this text."""
        row = ".sidebar > .list .list-row" + (f":has-text('{name}')" if name else "")
        self.page.click(f"{row} >> nth=0")
        self.page.wait_for_selector(f"{row}.is-open", state="attached")
        self.page.wait_for_selector(".composer-field")
        return self

    def say(self, *texts):
        for text in texts:
            self.page.fill(".composer-field", text)
            self.page.press(".composer-field", "Enter")
        return self

    def wait_text(self, text, *, own=None, patience_ms=PATIENCE_MS):
        """Wait until a bubble with exactly this text is shown."""
        side = "" if own is None else ".row-own " if own else ".row-other "
        _wait(
            self.page,
            "([side, text]) => [...document.querySelectorAll(`${side}.bubble-text`)].some((it) => it.textContent === text)",
            [side, text],
            lambda: f"no bubble {side}with {text!r}, but {self.texts()}",
            patience_ms,
        )

    def wait_texts(self, texts):
        """Wait until the bubbles are these, in this order."""
        self.wait_words(".bubble-text", texts)

    def wait_words(self, selector, words):
        """Wait until the elements show exactly these words: a text for the only one, or a list."""
        wait_for(self.page, _WORDS, [words] if isinstance(words, str) else words, selector)

    def wait_in_words(self, selector, part):
        """Wait until one of the elements shows this among its words."""
        _wait(
            self.page,
            f"([selector, part]) => ({_WORDS})(selector).some((text) => text.includes(part))",
            [selector, part],
            lambda: f"no {selector} with {part!r}, but {self.page.evaluate(_WORDS, selector)}",
        )

    def wait_count(self, selector, count):
        """Wait until there are so many of these elements; of a 0, wait first for what comes after it."""
        wait_for(self.page, "(selector) => document.querySelectorAll(selector).length", count, selector)

    def wait_hidden(self, selector):
        self.page.wait_for_selector(selector, state="hidden")

    def wait_toast(self, part):
        """Wait for a short notice, or find it among those that have come and gone since the page was loaded."""
        _wait(
            self.page,
            "(part) => window.toastsSeen.some((text) => text.includes(part))",
            part,
            lambda: f"no notice with {part!r}, but {self.page.evaluate('() => window.toastsSeen')}",
        )

    def wait_tick(self, status, count=1):
        """Wait until so many of one's own messages have this status: pending, sent, read or failed."""
        marks = (
            ".row-own .tick-sent, .row-own .tick-read" if status == "sent" else f".row-own .tick-{status}"
        )  # read: it was sent
        script = "([marks, count]) => document.querySelectorAll(marks).length >= count"
        ticks = "() => [...document.querySelectorAll('.row-own .tick')].map((one) => one.getAttribute('class'))"
        _wait(self.page, script, [marks, count], lambda: f"not {count} {status}, but {self.page.evaluate(ticks)}")

    def texts(self):
        return self.page.eval_on_selector_all(".bubble-text", "all => all.map((one) => one.textContent)")

    def wait_badge(self, text):
        """Wait for the unread number in the list; None: there is none."""
        wait_for(self.page, "() => document.querySelector('.sidebar .badge')?.textContent ?? null", text)

    def wait_title(self, title):
        wait_for(self.page, "() => document.title", title)

    def choose(self, name):
        """Choose an entry of the page's menu."""
        self.page.click(".sidebar-head .menu-button")
        self.page.click(f".menu-item:has-text('{name}')")

    def attach(self, name, kind, content):
        self.page.set_input_files("input[type=file]", {"name": name, "mimeType": kind, "buffer": content})

    # --- groups, friends, menus

    def choose_new(self, name):
        """Choose an entry of the menu that begins things."""
        self.page.click(".new-button")
        self.page.click(f".menu-item:has-text('{name}')")

    def make_group(self, name, *user_ids, join="invite"):
        """Make a group with these people, and open it."""
        self.choose_new("New group")
        self.page.fill("[name=group_name]", name)
        self.page.select_option(".dialog [name=join]", join)
        for count, user_id in enumerate(user_ids, 1):
            self.page.fill(".picker input", user_id)
            self.page.click(f".picker-list [data-user='{user_id}']")
            self.wait_count(".picker .chip", count)
        self.page.click(".dialog-foot .button-primary")
        self.wait_words(".chat-title", name)
        self.page.wait_for_selector(".composer-field")
        return self

    def message_menu(self, text, entry=None, *, emoji=None):
        """Open a message's menu by the pointer and choose an entry, or an emoji to react with."""
        words = self.page.locator(".bubble-text", has_text=re.compile(f"^{re.escape(text)}$"))
        stored = self.page.locator(".row[data-seq]:not([data-seq=''])", has=words)  # on its way it has no menu
        stored.locator(".bubble").click(button="right")
        if emoji is not None:
            self.page.click(f".menu-emoji:has-text('{emoji}')")
        else:
            self.page.click(f".menu-item:has-text('{entry}')")

    def row_menu(self, name, entry):
        """Choose an entry of the menu of a conversation in the list."""
        self.page.click(f".sidebar > .list .list-row:has-text('{name}')", button="right")
        self.page.click(f".menu-item:has-text('{entry}')")

    def panel(self):
        """Open what there is to know of the open conversation."""
        self.page.click(".info-button")
        self.page.wait_for_selector(".panel-who")

    def member_menu(self, user_id, entry):
        """Choose an entry of a member's menu in the group's panel."""
        self.page.click(f"[data-member={user_id}] .icon-button")
        self.page.click(f".menu-item:has-text('{entry}')")
