"""The web client in Chromium: what two people do with it. The fixture `windows` fails each test on any console error,
policy violation, dialog or request to another host."""

import base64
import subprocess
from pathlib import Path

import pytest
from pages import PASSWORD, wait_for

HERE = Path(__file__).parent

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAYAAACNMs+9AAAAFUlEQVR42mNk+M9Qz0AEYBxVSF+FABJADveWkH6oAAAAAElFTkSuQmCC"
)
PHONE = {"width": 390, "height": 844}
LONG_MS = 180_000  # for two thousand messages

#: Asks the server with a client of its own.
KNOWS_TYPING = """async () => {
  const { ImClient, Command } = await import("/imserver.js");
  const client = new ImClient();
  await client.login("anna", "correct horse 7 battery");
  const known = await client.supports(Command.WATCH_PRESENCE);
  client.close();
  return known;
}"""

#: Each must be seen as it was typed, wherever it is shown.
XSS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '"><b onmouseover=alert(1)>x</b>',
    "javascript:alert(1)",
    "<a href=javascript:alert(1)>x</a>",
    "{{constructor.constructor('alert(1)')()}} ${alert(1)}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "http://x.example/\"onmouseover='alert(1)'",
    "data:text/html,<script>alert(1)</script>",
    "\u202e<style>*{display:none}</style>",
]


@pytest.fixture
def pair(windows):
    """Anna and Ben, each in a window of their own; Anna has opened the conversation."""
    anna = windows.open().register("anna", "Anna Weiss")
    ben = windows.open().register("ben", "Ben")
    anna.write_to("ben")
    return anna, ben


def test_two_people_chat(pair):
    """Two people register in two windows and write to each other; the first one sees that it was read."""
    anna, ben = pair
    anna.say("hello Ben", "second\nline")
    anna.wait_tick("sent", 2)
    ben.wait_badge("2")
    ben.open()
    ben.wait_text("second\nline", own=False)
    anna.wait_tick("read", 2)
    ben.say("hello Anna")
    anna.wait_text("hello Anna", own=False)
    for window in pair:
        window.wait_texts(["hello Ben", "second\nline", "hello Anna"])
    anna.wait_words(".chat-title", "Ben")
    anna.wait_in_words(".chat-detail", "@ben")


def test_unread_counts(pair):
    """Unread numbers rise in the list, the title and the icon, and go when the conversation is read."""
    anna, ben = pair
    icon = "() => document.querySelector('link[rel=icon]').getAttribute('href')"
    plain = ben.page.evaluate(icon)  # nobody has written to Ben
    for number, text in enumerate(["one", "two", "three"], 1):
        anna.say(text)
        ben.wait_badge(str(number))
        ben.wait_title(f"({number}) imserver")
    wait_for(ben.page, f"(plain) => ({icon})() !== plain", arg=plain)
    ben.open()
    ben.page.wait_for_selector(".unread-line")
    ben.wait_badge(None)
    ben.wait_title("imserver")
    wait_for(ben.page, icon, plain)


def test_reload_keeps_everything(pair):
    """A reload keeps the login, the open conversation, its messages and what is unread; without "keep me logged in", too."""
    anna, ben = pair
    anna.say("before the reload")
    anna.wait_tick("sent")
    ben.wait_badge("1")
    ben.page.reload()
    ben.wait_ready()
    ben.wait_badge("1")
    anna.page.reload()
    anna.wait_text("before the reload", own=True)
    ben.open()
    ben.say("after it")
    anna.wait_text("after it", own=False)
    anna.wait_texts(["before the reload", "after it"])


def test_remembered_login_and_tabs(windows):
    """A remembered login opens in a new tab, both tabs live side by side; another account can be used in one of them."""
    anna = windows.open().register("anna", remember=True)
    second = windows.another(anna)
    second.wait_ready()
    windows.open().register("ben")
    anna.write_to("ben").say("from the first tab")
    second.page.wait_for_selector(".sidebar .list-row")
    second.open()
    second.wait_text("from the first tab", own=True)
    second.say("from the second tab")
    anna.wait_text("from the second tab", own=True)
    second.choose("Use another account")
    second.page.wait_for_selector(".login-form")
    anna.page.reload()
    anna.wait_text("from the second tab", own=True)


def test_offline_and_back(pair):
    """Offline: the state is shown, messages wait; online again they are sent once and what was missed is there, in order."""
    anna, ben = pair
    anna.browser.is_offline_expected = True
    anna.say("before")
    anna.wait_tick("sent")
    ben.wait_badge("1")
    ben.open()
    anna.context.set_offline(True)
    anna.page.wait_for_selector(".banner:not([hidden])")
    anna.say("written offline", "and more")
    anna.wait_tick("pending", 2)
    ben.say("meanwhile")
    ben.wait_tick("sent")
    anna.context.set_offline(False)
    anna.wait_text("meanwhile", own=False)
    anna.page.wait_for_selector(".banner", state="hidden")
    ben.wait_text("and more", own=False)
    anna.wait_count(".row .tick-pending", 0)
    for window in pair:
        window.wait_texts(["before", "meanwhile", "written offline", "and more"])


def test_unsent_messages_survive_a_reload_and_a_dead_server(pair, web_server):
    """A message written while the server is dead survives a reload of the page, and is sent once when the server is back."""
    anna, ben = pair
    anna.browser.is_offline_expected = True
    anna.say("first")
    ben.wait_badge("1")
    web_server.kill()
    anna.page.wait_for_selector(".banner:not([hidden])")
    anna.say("while it was dead")
    anna.wait_tick("pending")
    web_server.start()
    anna.page.reload()
    anna.wait_text("while it was dead", own=True)
    ben.wait_badge("2")
    ben.open()
    ben.wait_text("while it was dead", own=False)
    ben.wait_texts(["first", "while it was dead"])


def test_files_and_pictures(pair):
    """A picture is shown and opens large, a file is downloaded as it was; the progress is told on the way."""
    anna, ben = pair
    ben.page.reload()
    ben.wait_ready()
    anna.page.evaluate(
        "() => { window.bars = []; new MutationObserver(() => { for (const one of document.querySelectorAll('progress'))"
        " window.bars.push(one.value); }).observe(document.body, {subtree: true, childList: true, attributes: true}); }"
    )
    content = bytes(range(256)) * 12_000  # 3 MB: more than goes in one request
    slow = anna.context.new_cdp_session(anna.page)
    slow.send("Network.enable")
    slow.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 1_000_000},
    )
    anna.attach("notes <b>x</b>.bin", "application/octet-stream", content)
    anna.wait_tick("sent")
    wait_for(anna.page, "() => window.bars.some((value) => value > 0 && value < 100)")
    anna.attach("tiny.png", "image/png", PICTURE)
    anna.wait_tick("sent", 2)
    ben.wait_badge("2")
    ben.open()
    ben.page.wait_for_selector(".picture[src^=blob]")
    wait_for(ben.page, "() => document.querySelector('.picture').naturalWidth", 10)  # it has been decoded
    with ben.page.expect_download() as download:
        ben.page.click(".file")
    assert download.value.suggested_filename.endswith(".bin")
    assert download.value.path().read_bytes() == content
    ben.page.click(".picture-frame")
    ben.page.wait_for_selector(".lightbox-image[src^=blob]")
    ben.page.keyboard.press("Escape")
    ben.page.wait_for_selector(".lightbox", state="detached")


def test_drop_and_paste(pair):
    """Files come by drag and drop and from the clipboard, too."""
    anna, ben = pair
    give = """([name, target, kind, field]) => {
      const data = new DataTransfer();
      data.items.add(new File(['x'], name, {type: 'text/plain'}));
      document.querySelector(target).dispatchEvent(
        new window[kind](field[0], {[field[1]]: data, bubbles: true, cancelable: true}));
    }"""
    anna.page.evaluate(give, ["dropped.txt", ".chat", "DragEvent", ["drop", "dataTransfer"]])
    anna.wait_tick("sent")
    anna.page.evaluate(give, ["pasted.txt", ".composer-field", "ClipboardEvent", ["paste", "clipboardData"]])
    anna.wait_tick("sent", 2)
    ben.wait_badge("2")
    ben.open()
    ben.page.wait_for_selector(".file >> nth=1")
    ben.wait_words(".file-name", ["dropped.txt", "pasted.txt"])


def test_markup_is_text_everywhere(windows):
    """Markup in names, messages, file names, quotes, the list and the search is shown as it was typed, and runs nowhere."""
    anna = windows.open().register("anna", "<img src=x onerror=alert(1)>")
    ben = windows.open().register("ben", "<b>Ben</b>")
    ben.wait_words(".self-text strong", "<b>Ben</b>")
    anna.write_to("ben")
    anna.wait_words(".chat-title", "<b>Ben</b>")
    for text in XSS:
        anna.say(text)
    anna.wait_tick("sent", len(XSS))
    ben.wait_badge(str(len(XSS)))
    ben.wait_words(".sidebar > .list .list-name", "<img src=x onerror=alert(1)>")
    ben.wait_words(".sidebar > .list .list-last", XSS[-1])
    ben.open()
    ben.wait_texts(XSS)
    assert ben.page.eval_on_selector_all(".bubble a", "all => all.map((one) => new URL(one.href).protocol)") == ["http:"]
    assert ben.page.eval_on_selector_all(
        ".bubble a", "all => all.every((one) => one.rel.includes('noopener') && one.target === '_blank')"
    )
    ben.page.focus(".row[data-seq='1']")
    ben.page.keyboard.press("Enter")
    ben.page.click(".menu-item >> nth=0")
    ben.wait_in_words(".composer-context", XSS[0])
    ben.say("an answer")
    anna.wait_words(".quote-text", XSS[0])
    ben.attach("<svg onload=alert(1)>.txt", "text/plain", b"x")
    anna.wait_in_words(".file-name", "alert(1)")
    anna.page.fill(".search-field", "onerror")
    anna.wait_in_words(".results .list-last:has(mark)", XSS[1])
    for window in (anna, ben):
        assert (
            window.page.query_selector(
                "#app script, #app iframe, #app style, #app [onerror], #app [onload], .bubble b, .list b"
            )
            is None
        )


def test_keyboard_alone(windows):
    """Register, find somebody, write, answer and move about without a pointer; the focus is always to be seen."""
    windows.open().register("ben", "Ben")
    anna = windows.open()
    keyboard = anna.page.keyboard
    wait_for(anna.page, "() => document.activeElement.name", "user_id")
    keyboard.type("anna")
    keyboard.press("Tab")
    keyboard.press("Tab")
    keyboard.type("correct horse 7 battery")
    keyboard.press("Enter")
    anna.wait_ready()
    keyboard.press("Control+k")
    keyboard.type("ben")
    anna.page.wait_for_selector(".results .list-row")
    keyboard.press("Enter")
    anna.page.wait_for_selector(".composer-field:focus")
    keyboard.type("by keyboard")
    keyboard.press("Enter")
    anna.wait_tick("sent")
    keyboard.press("ArrowUp")
    anna.page.wait_for_selector(".row:focus")
    outline = (
        "() => { const style = getComputedStyle(document.activeElement); return [style.outlineStyle, style.outlineWidth]; }"
    )
    wait_for(anna.page, f"() => {{ const [style, width] = ({outline})(); return style === 'solid' && width !== '0px'; }}")
    keyboard.press("Enter")
    anna.page.wait_for_selector("[role=menuitem]:focus")
    keyboard.press("Enter")
    anna.page.wait_for_selector(".composer-context:not([hidden])")
    keyboard.type("an answer to myself")
    keyboard.press("Enter")
    anna.page.wait_for_selector(".quote")
    keyboard.press("Escape")
    anna.page.wait_for_selector(".nothing")
    wait_for(anna.page, "() => document.activeElement.dataset.conversation", "d:anna:ben")
    keyboard.press("Enter")
    anna.page.wait_for_selector(".composer-field:focus")


def test_narrow_screen(pair):
    """On a phone there is one pane at a time, a button and the browser's own "back" lead to the list, nothing is cut off."""
    anna, ben = pair
    ben.page.set_viewport_size(PHONE)
    ben.page.fill("[name=peer-narrow]", "anna")
    ben.page.press("[name=peer-narrow]", "Enter")
    ben.page.wait_for_selector(".composer-field", state="visible")
    anna.page.set_viewport_size(PHONE)
    anna.wait_hidden(".sidebar")
    anna.page.wait_for_selector(".chat", state="visible")
    anna.say("from the phone " * 20)
    anna.wait_tick("sent")
    wait_for(anna.page, "() => document.documentElement.scrollWidth <= innerWidth")
    anna.page.click(".chat-head .icon-button")
    anna.page.wait_for_selector(".sidebar", state="visible")
    anna.wait_hidden(".chat")
    anna.page.click(".list-row")
    anna.page.wait_for_selector(".chat", state="visible")
    anna.page.go_back()
    anna.page.wait_for_selector(".sidebar", state="visible")


def test_language_and_theme(windows):
    """The language is the browser's until one is chosen; the theme is the system's until one is chosen; both are kept."""
    anna = windows.open(locale="zh-CN", color_scheme="dark")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    is_other = f"(dark) => ({ground})() !== dark"
    anna.wait_words(".tab", ["注册账号", "登录"])
    dark = anna.page.evaluate(ground)  # the page's style is there before its script runs
    anna.register("anna", "安娜")
    anna.wait_in_words(".nothing h1", "欢迎，安娜")
    anna.choose("English")
    anna.wait_words(".nothing h1", "Welcome, 安娜!")
    anna.choose("Theme: Light")
    wait_for(anna.page, is_other, arg=dark)
    anna.page.reload()
    anna.wait_words(".nothing h1", "Welcome, 安娜!")
    wait_for(anna.page, is_other, arg=dark)
    anna.choose("Theme: Dark")
    wait_for(anna.page, ground, dark)


def test_the_welcome_knows_the_name_and_keeps_what_is_typed(windows):
    """Nobody is greeted by an id that becomes a name a moment later; what is typed below stays when a message comes."""
    ben = windows.open().register("ben")
    anna = windows.open()
    anna.page.evaluate(
        "() => { window.greetings = []; new MutationObserver(() => {"
        " const greeting = document.querySelector('.nothing h1')?.textContent;"
        " if (greeting && window.greetings.at(-1) !== greeting) window.greetings.push(greeting);"
        " }).observe(document.body, {subtree: true, childList: true, characterData: true}); }"
    )
    anna.register("anna", "Anna Weiss")
    anna.wait_words(".nothing h1", "Welcome, Anna Weiss!")
    wait_for(anna.page, "() => window.greetings", ["Welcome, Anna Weiss!"])
    anna.page.fill("[name=peer]", "mia")
    ben.write_to("anna").say("hello")
    anna.wait_badge("1")
    wait_for(anna.page, "() => document.querySelector('[name=peer]')?.value", "mia")


def test_unfriendly_input(windows):
    """Wrong passwords, taken names, unknown users and oneself get a clear word, and nothing breaks."""
    anna = windows.open().register("anna")
    other = windows.open()
    other.page.fill("[name=user_id]", "not a name")
    other.page.fill("[name=password]", "correct horse 7 battery")
    other.page.press("[name=password]", "Enter")
    other.wait_in_words(".form-error", "letters")
    other.page.fill("[name=user_id]", "anna")
    other.page.press("[name=password]", "Enter")
    other.page.wait_for_selector(".form-error:has-text('taken')")
    other.page.click(".tab >> nth=1")
    other.page.fill("[name=password]", "wrong password")
    other.page.press("[name=password]", "Enter")
    other.page.wait_for_selector(".form-error:has-text('wrong')")
    for name, word in (("nobody", "no user “nobody”"), ("anna", "That is you"), ("ü", "no user")):
        anna.page.fill("[name=peer]", name)
        anna.page.press("[name=peer]", "Enter")
        anna.page.wait_for_selector(f"#peer-fault:has-text('{word}')")


def test_search_finds_messages_and_goes_there(pair):
    """The search finds what was written, in English and in Chinese, and shows it in its place."""
    anna, _ = pair
    anna.say("the needle 针 is here", *[f"hay {number}" for number in range(15)])
    anna.wait_tick("sent", 16)
    for word in ("NEEDLE", "针"):
        anna.page.fill(".search-field", word)
        anna.page.click(".results .list-row:has(mark)")
        anna.page.wait_for_selector(".row:focus .bubble-text:has-text('needle')")


def test_long_history_stays_in_a_window(pair, node, imserver_js, web_server):
    """A conversation of 2,000 messages is scrolled to its first one while the page keeps a few hundred elements."""
    anna, _ = pair
    url = f"{web_server.url.replace('http', 'ws', 1)}ws"
    words = [*node, str(HERE / "fill_history.mjs"), str(imserver_js), url, "ben", PASSWORD, "anna", "2000"]
    subprocess.run(words, check=True, timeout=240, capture_output=True)
    anna.wait_text("number 1999", own=False, patience_ms=LONG_MS)  # each of them is drawn on the way
    anna.page.evaluate(
        "() => { window.most = 0; const rows = document.querySelector('.timeline-rows');"
        " new MutationObserver(() => { window.most = Math.max(window.most, rows.querySelectorAll('.row').length); })"
        ".observe(rows, {childList: true}); }"
    )
    anna.page.wait_for_function(
        "() => { const box = document.querySelector('.timeline'); box.scrollTop = 0;"
        " return document.querySelector('.row[data-seq=\"1\"]') && document.querySelector('.beginning'); }",
        polling=50,
        timeout=LONG_MS,
    )
    assert anna.page.evaluate("() => window.most") <= 400  # counted all the way
    anna.page.click(".to-latest")
    anna.wait_text("number 1999", own=False)
    seqs = anna.page.eval_on_selector_all(".row", "all => all.map((one) => Number(one.dataset.seq))")
    assert seqs == list(range(seqs[0], seqs[-1] + 1))


def test_log_out(pair):
    """Logging out leads to the first screen, and a reload does not come back."""
    anna, _ = pair
    anna.say("x")
    anna.wait_tick("sent")
    anna.choose("Log out")
    anna.page.wait_for_selector(".login-form")
    anna.page.reload()
    anna.page.wait_for_selector(".login-form")
    anna.log_in("anna")
    anna.open()
    anna.wait_text("x", own=True)


def test_typing_and_presence(pair):
    """Who is online is to be seen, and that they type, where the server tells it; both end with their reason."""
    anna, ben = pair
    anna.say("x")
    anna.wait_tick("sent")
    if not anna.page.evaluate(KNOWS_TYPING):
        pytest.skip("this server knows no TYPING and no presence")
    anna.page.wait_for_selector(".chat-face.is-online")
    anna.page.wait_for_selector(".list-face.is-online")
    ben.open()
    ben.page.type(".composer-field", "hm")
    anna.page.wait_for_selector(".chat-detail:has-text('typing')")
    ben.page.press(".composer-field", "Enter")
    anna.page.wait_for_selector(".chat-detail:has-text('online')")
    ben.page.close()
    anna.page.wait_for_selector(".chat-face:not(.is-online)")
