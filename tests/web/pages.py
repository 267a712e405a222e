"""A person in front of the page: what they see and do, in the words of the tests."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

PASSWORD = "correct horse 7 battery"
CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 20_000

#: Says what broke the content security policy, as console errors do not always.
_WATCH_POLICY = """addEventListener('securitypolicyviolation', (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
})"""


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
        """The overview is complete."""
        self.page.wait_for_selector(".sidebar")
        self.page.wait_for_selector(".list-row, .list-empty:not([hidden])")

    # --- the chat

    def write_to(self, user_id):
        """Start a conversation from the welcome screen."""
        self.page.fill("[name=peer]", user_id)
        self.page.press("[name=peer]", "Enter")
        self.page.wait_for_selector(".composer-field")
        return self

    def open(self, number=0):
        """Open a conversation of the list."""
        self.page.click(f".sidebar > .list .list-row >> nth={number}")
        self.page.wait_for_selector(".composer-field")
        return self

    def say(self, *texts):
        for text in texts:
            self.page.fill(".composer-field", text)
            self.page.press(".composer-field", "Enter")
        return self

    def wait_text(self, text, *, own=None):
        """Wait until a bubble with exactly this text is shown."""
        side = "" if own is None else ".row-own " if own else ".row-other "
        self.page.wait_for_function(
            "([side, text]) => [...document.querySelectorAll(`${side}.bubble-text`)].some((it) => it.textContent === text)",
            arg=[side, text],
        )

    def wait_tick(self, status, count=1):
        """Wait until so many of one's own messages have this status: pending, sent, read or failed."""
        marks = (
            ".row-own .tick-sent, .row-own .tick-read" if status == "sent" else f".row-own .tick-{status}"
        )  # read: it was sent
        script = "([marks, count]) => document.querySelectorAll(marks).length >= count"
        self.page.wait_for_function(script, arg=[marks, count])

    def texts(self):
        return self.page.eval_on_selector_all(".bubble-text", "all => all.map((one) => one.textContent)")

    def wait_badge(self, text):
        """Wait for the unread number in the list; None: there is none."""
        if text is None:
            self.page.wait_for_function("() => !document.querySelector('.sidebar .badge')")
        else:
            self.page.wait_for_function(
                "(text) => document.querySelector('.sidebar .badge')?.textContent === text", arg=text
            )

    def wait_title(self, title):
        self.page.wait_for_function("(title) => document.title === title", arg=title)

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
        for user_id in user_ids:
            self.page.fill(".picker input", user_id)
            self.page.click(f".picker-list [data-user='{user_id}']")
        self.page.click(".dialog-foot .button-primary")
        self.page.wait_for_selector(".composer-field")
        return self

    def message_menu(self, text, entry=None, *, emoji=None):
        """Open a message's menu by the pointer and choose an entry, or an emoji to react with."""
        words = self.page.locator(".bubble-text", has_text=re.compile(f"^{re.escape(text)}$"))
        self.page.locator(".bubble", has=words).click(button="right")
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
