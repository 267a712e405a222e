"""Takes the screenshots of docs/images from a server of its own.

    python tests/web/screenshots.py [FOLDER]

Needs Playwright and Chromium, as the tests of this folder do.
"""

import base64
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from pages import CHROMIUM, PATIENCE_MS, Browser, wait_for  # noqa: E402  (the tests' own modules are found by the line above)
from process import Server  # noqa: E402

SIZE = {"width": 1200, "height": 760}
PHONE = {"width": 390, "height": 780}

TALK = [
    ("ben", "Morning! The new server has been running since last night."),
    ("anna", "And? Did anything get lost when the power went?"),
    ("ben", "Not one message. It came back in half a second 🎉"),
    ("anna", "那太好了！中午一起吃饭吗？"),
    ("ben", "Gladly. The notes are at https://chat.example.org/notes"),
]

GROUP_TALK = [
    "Shall we go to the botanical garden on Saturday?",
    "Yes! The cherry trees are in full bloom 🌸",
    "我带相机和水果。",
    "Count me in, and I bring the tea.",
]

#: Draws a picture to send: hills at dusk.
PAINT = """() => {
  const canvas = document.createElement('canvas'); canvas.width = 960; canvas.height = 600;
  const pen = canvas.getContext('2d');
  const sky = pen.createLinearGradient(0, 0, 0, 600);
  sky.addColorStop(0, '#2b3a75'); sky.addColorStop(.6, '#e8879b'); sky.addColorStop(1, '#ffd8a8');
  pen.fillStyle = sky; pen.fillRect(0, 0, 960, 600);
  pen.fillStyle = '#fff3bf'; pen.beginPath(); pen.arc(660, 330, 54, 0, 7); pen.fill();
  ['#5c5f9e', '#41467c', '#272b52'].forEach((colour, n) => {
    pen.fillStyle = colour; pen.beginPath(); pen.moveTo(0, 600);
    for (let x = 0; x <= 960; x += 8) pen.lineTo(x, 380 + n * 62 + 46 * Math.sin(x / (150 - n * 30) + n * 2));
    pen.lineTo(960, 600); pen.fill(); });
  return canvas.toDataURL('image/png').split(',')[1];
}"""


def main(folder):
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    executable = os.environ.get("IMSERVER_CHROMIUM") or shutil.which("chromium") or CHROMIUM
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        server = Server(Path(scratch)).start()
        server.url = f"http://{server.ready['http'][0]}/"
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"], timeout=PATIENCE_MS)
        try:
            take(Browser(chromium, server), folder)
        finally:
            chromium.close()
            server.stop()


def take_group(shot, anna, ben, others):
    """A group that has been talking, its panel, the friends; light, dark and on a phone."""
    anna.page.set_viewport_size({"width": 1320, "height": 800})
    ben.page.set_viewport_size({"width": 1200, "height": 800})
    anna.make_group("Spring outing 🌸", "ben", "mia", "li")
    mia, li = others["mia"], others["li"]
    for one in (ben, mia, li):
        one.page.click(".sidebar > .list .list-row:has-text('Spring outing')")
        one.page.wait_for_selector(".chat-detail:has-text('4 members')")
    for window, text in ((anna, GROUP_TALK[0]), (mia, GROUP_TALK[1]), (li, GROUP_TALK[2])):
        window.say(text)
        window.wait_tick("sent")
        ben.wait_text(text, own=False)
    ben.message_menu(GROUP_TALK[0], emoji="👍")
    mia.message_menu(GROUP_TALK[0], emoji="👍")
    li.message_menu(GROUP_TALK[0], emoji="🎉")
    ben.message_menu(GROUP_TALK[1], "Reply")
    ben.say(GROUP_TALK[3])
    anna.message_menu(GROUP_TALK[0], emoji="👍")
    anna.message_menu(GROUP_TALK[0], "Edit")
    anna.say(GROUP_TALK[0] + " Trains leave every hour.")
    mia.say("wrong window, sorry")
    mia.message_menu("wrong window, sorry", "Recall")
    mia.page.type(".composer-field", "@be")
    mia.page.wait_for_selector(".mention-option")
    mia.page.keyboard.press("Enter")
    mia.page.keyboard.type("can you bring the camera? 📷")
    mia.page.keyboard.press("Enter")
    ben.page.wait_for_selector(".bubble-for-me")
    anna.say("Then it is settled.")
    anna.page.wait_for_selector(".read-by:has-text('Read by 3 of 3')")
    anna.panel()
    anna.member_menu("ben", "Make admin")
    anna.page.wait_for_selector(".role-admin")
    shot(anna, "web-group")
    ben.page.wait_for_selector(".row-system:has-text('made you an admin')")
    ben.page.hover(".row-other >> nth=0")
    ben.message_menu("Then it is settled.", emoji="🙏")
    ben.page.locator(".bubble-for-me").click(button="right")
    shot(ben, "web-group-dark")
    ben.page.keyboard.press("Escape")
    anna.page.click(".panel-head .icon-button")
    take_friends(shot, anna, others, ben)
    anna.page.click(".sidebar > .list .list-row:has-text('Spring outing')")
    anna.page.wait_for_selector(".chat-detail:has-text('4 members')")
    anna.page.set_viewport_size(PHONE)
    shot(anna, "web-group-phone")


def take_friends(shot, anna, others, ben):
    """Friends, one with a remark, and one who asks."""
    for window in (ben, others["mia"], others["li"]):
        window.choose_new("Add a friend")
        window.page.fill("[name=friend_query]", "anna")
        window.page.click(".dialog .person-row:has-text('@anna') .button")
        window.page.fill(".dialog:last-of-type .input:not([name])", "Shall we be friends?")
        window.page.click(".dialog:last-of-type .button-primary")
        window.wait_toast("Friend request sent")
        window.wait_count("dialog", 1)
        window.page.keyboard.press("Escape")
    anna.page.click(".side-tabs .tab >> nth=1")
    for user_id in ("ben", "mia"):
        anna.page.click(f"[data-request={user_id}] .accept")
        anna.page.wait_for_selector(f"[data-friend={user_id}]")
    anna.page.click("[data-friend=ben]", button="right")
    anna.page.click(".menu-item:has-text('Set a remark')")
    anna.page.fill(".dialog .input", "Ben (photos)")
    anna.page.click(".dialog-foot .button-primary")
    anna.page.click("[data-friend=ben]:has-text('Ben (photos)')")
    anna.panel()
    anna.wait_count(".toast", 0)  # they go after a few seconds
    shot(anna, "web-friends")
    anna.page.click(".panel-head .icon-button")
    anna.page.click(".side-tabs .tab >> nth=0")


def take(browser, folder):
    def shot(window, name):
        window.page.wait_for_timeout(600)  # pictures and transitions
        window.page.screenshot(path=str(folder / f"{name}.png"))

    anna = browser.open(viewport=SIZE, color_scheme="light")
    shot(anna, "web-login")
    anna.register("anna", "Anna Weiss")
    others = {}
    for user_id, nickname, text in (
        ("mia", "Mia Chen", "See you on Thursday!"),
        ("tom", "Tom", "Could you look at the invoice?"),
        ("li", "李雷", "会议改到下午三点"),
    ):
        others[user_id] = browser.open(viewport=SIZE).register(user_id, nickname).write_to("anna").say(text)
        others[user_id].wait_tick("sent")
    ben = browser.open(viewport=SIZE, color_scheme="dark").register("ben", "Ben Okafor")
    ben.write_to("anna").say(TALK[0][1])
    ben.wait_tick("sent")
    anna.wait_title("(4) imserver")
    anna.open("Ben Okafor")
    anna.wait_text(TALK[0][1], own=False)
    for sender, text in TALK[1:]:
        (anna if sender == "anna" else ben).say(text)
        (ben if sender == "anna" else anna).wait_text(text, own=False)
    ben.attach("evening.png", "image/png", base64.b64decode(ben.page.evaluate(PAINT)))
    wait_for(anna.page, "() => document.querySelector('.picture')?.naturalWidth > 0")
    anna.say("Beautiful! 😍")
    ben.wait_text("Beautiful! 😍", own=False)
    anna.wait_tick("read", 3)
    shot(anna, "web-light")
    shot(ben, "web-dark")
    anna.page.set_viewport_size(PHONE)
    shot(anna, "web-phone")
    anna.page.click(".chat-head .icon-button")
    others["tom"].say("It is the one from May.")
    anna.wait_title("(4) imserver")
    anna.choose("中文")
    shot(anna, "web-phone-chinese")
    anna.choose("English")
    take_group(shot, anna, ben, others)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[1] / "docs" / "images")
