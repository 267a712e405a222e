"""Groups, friends, reactions, edits, recalls and receipts in Chromium: three people, each in a window of their own."""

import subprocess
import sys

import pytest
from pages import PASSWORD, wait_for

PHONE = {"width": 390, "height": 844}
XSS = '<img src=x onerror="alert(1)">'
XSS_NAME = "<b onclick=alert(1)>Team</b>"


@pytest.fixture
def server_settings():
    """With the plugin bot, whose messages grow."""
    return {"plugins.enabled": '["user", "message", "friend", "group", "push", "file", "search", "admin", "bot"]'}


@pytest.fixture
def three(windows):
    """Anna, Ben and Mia; nobody has written to anybody."""
    people = {"anna": "Anna Weiss", "ben": "Ben Okafor", "mia": "Mia"}
    opened = [windows.open().register(user_id, nickname, wait=False) for user_id, nickname in people.items()]
    for window in opened:
        window.wait_ready()
    return opened


@pytest.fixture
def team(three):
    """The same, all with the group "Team" open; Anna is its owner."""
    anna, ben, mia = three
    anna.make_group("Team", "ben", "mia")
    for other in (ben, mia):
        other.open("Team")
        other.page.wait_for_selector(".chat-detail:has-text('3 members')")
    return anna, ben, mia


def test_a_group_talks_reacts_edits_and_recalls(team):
    """Reply, reaction, mention, edit, receipts, recall: all see it at once, after a reload, and after an absence."""
    anna, ben, mia = team
    ben.page.wait_for_selector(".row-system:has-text('Anna Weiss created the group “Team” with you and Mia')")
    anna.say("Lunch at noon?")
    for other in (ben, mia):
        other.wait_text("Lunch at noon?", own=False)
    ben.wait_words(".row-other .bubble-name", "Anna Weiss")
    anna.page.wait_for_selector(".read-by:has-text('Read by 2 of 2')")
    anna.page.click(".read-by")
    anna.page.wait_for_selector(".readers .person-row:has-text('Ben Okafor')")
    anna.page.keyboard.press("Escape")

    ben.message_menu("Lunch at noon?", emoji="👍")
    ben.page.wait_for_selector(".reaction.is-own:has-text('1')")
    anna.page.click(".reaction")  # joins in
    anna.page.wait_for_selector(".reaction.is-own:has-text('2')")
    ben.page.wait_for_selector(".reaction:has-text('2')")
    ben.page.click(".reaction")  # takes it back
    ben.page.wait_for_selector(".reaction:not(.is-own):has-text('1')")
    mia.page.wait_for_selector(".reaction[title='Anna Weiss']")

    ben.message_menu("Lunch at noon?", "Reply")
    ben.say("I am in")
    mia.page.wait_for_selector(".row-other .quote:has-text('Lunch at noon?')")
    mia.page.click(".quote")
    mia.page.wait_for_selector(".row:focus .bubble-text:has-text('Lunch at noon?')")

    anna.message_menu("Lunch at noon?", "Edit")
    anna.say("Lunch at one?")
    for one in team:
        one.wait_text("Lunch at one?")
    ben.page.wait_for_selector(".bubble-meta:has-text('edited')")
    ben.page.wait_for_selector(".reaction:has-text('1')")

    mia.page.type(".composer-field", "@an")
    mia.page.wait_for_selector(".mention-option:has-text('Anna Weiss')")
    mia.page.keyboard.press("Enter")
    mia.page.keyboard.type("look")
    mia.page.keyboard.press("Enter")
    anna.page.wait_for_selector(".bubble-for-me .mention-me:has-text('@Anna Weiss')")
    ben.wait_words(".mention", "@Anna Weiss")
    ben.wait_count(".mention-me", 0)

    ben.message_menu("I am in", "Recall")
    ben.page.wait_for_selector(".bubble-recalled:has-text('You recalled')")
    mia.page.wait_for_selector(".bubble-recalled:has-text('Ben Okafor recalled a message')")
    anna.message_menu("@Anna Weiss look", "Recall")  # another's, as the owner
    anna.page.click(".dialog-foot .button-danger")
    ben.page.wait_for_selector(".bubble-recalled:has-text('Anna Weiss recalled a message of Mia')")

    mia.page.reload()
    mia.wait_text("Lunch at one?", own=False)
    mia.page.wait_for_selector(".reaction:has-text('1')")
    mia.wait_count(".bubble-recalled", 2)
    mia.page.wait_for_selector(".bubble-meta:has-text('edited')")

    # Mia is away during an edit, a reaction and a recall: back again she sees how things are, without a reload.
    anna.browser.is_offline_expected = True
    anna.say("first", "second")
    mia.wait_text("second", own=False)
    mia.context.set_offline(True)
    mia.page.wait_for_selector(".banner:not([hidden])")
    anna.message_menu("first", "Edit")
    anna.say("first, better")
    ben.wait_text("first, better", own=False)
    ben.message_menu("first, better", emoji="🎉")
    anna.page.wait_for_selector(".reaction:has-text('🎉')")
    anna.message_menu("second", "Recall")
    mia.context.set_offline(False)
    mia.wait_text("first, better", own=False)
    mia.page.wait_for_selector(".reaction:has-text('🎉')")
    mia.wait_count(".bubble-recalled", 3)


def test_members_roles_and_rules(team, web_server):
    """Rename, announce, admin, mute, remove: all see it in words, and who is removed is told and cannot write."""
    anna, ben, mia = team
    anna.panel()
    anna.page.click(".panel [data-key=name]")
    anna.page.fill(".dialog .input", XSS_NAME)
    anna.page.keyboard.press("Enter")
    ben.wait_words(".chat-title", XSS_NAME)
    anna.page.click(".panel [data-key=announcement]")
    anna.page.fill(".dialog textarea", XSS)
    anna.page.click(".dialog-foot .button-primary")
    ben.wait_in_words(".row-system", XSS)
    ben.panel()
    ben.wait_words(".panel-announcement", XSS)
    ben.page.wait_for_selector("[data-member=ben]")
    ben.wait_count(".panel [data-key=name]", 0)  # a plain member changes nothing

    anna.member_menu("ben", "Make admin")
    ben.page.wait_for_selector("[data-member=ben] .role-admin")
    ben.page.wait_for_selector(".row-system:has-text('Anna Weiss made you an admin')")
    # Each of Ben's steps waits until his panel shows the one before: its menus say what was known when they were opened.
    ben.page.wait_for_selector(".panel [data-key=all-muted]")
    ben.member_menu("mia", "Mute for an hour")
    mia.page.wait_for_selector(".chat-closed:has-text('You are muted')")
    ben.page.wait_for_selector("[data-member=mia] .list-last:has-text('Muted until')")
    ben.member_menu("mia", "Let write again")
    mia.page.wait_for_selector(".composer-field:visible")
    ben.page.wait_for_selector("[data-member=mia] .list-last:has-text('@mia')")
    ben.page.click(".panel [data-key=all-muted][aria-checked=false]")
    mia.page.wait_for_selector(".chat-closed:has-text('Only the owner and the admins')")
    ben.page.click(".panel [data-key=all-muted][aria-checked=true]")
    mia.page.wait_for_selector(".composer-field:visible")

    ben.member_menu("mia", "Remove from the group")
    ben.page.click(".dialog-foot .button-danger")
    mia.page.wait_for_selector(".chat-closed:has-text('Ben Okafor removed you')")
    mia.wait_hidden(".composer")
    anna.page.wait_for_selector(".row-system:has-text('Ben Okafor removed Mia')")
    anna.say("without Mia")
    ben.wait_text("without Mia", own=False)
    with web_server.client() as aside:  # what Mia gets next: the other message would have come by then
        aside.login("anna", PASSWORD)
        aside.ok(2001, to="mia", client_id="aside", body="a word aside")
    mia.page.wait_for_selector(".sidebar > .list .list-row:has-text('a word aside')")
    assert "without Mia" not in mia.texts()
    mia.page.reload()
    mia.page.wait_for_selector(".nothing h1")
    mia.wait_words(".sidebar > .list .list-name", "Anna Weiss")  # and no group

    ben.page.wait_for_selector("[data-member=mia]", state="detached")
    ben.page.click(".panel [data-key=add]")
    ben.page.fill(".picker input", "mia")
    ben.page.click(".picker-list [data-user=mia]")
    ben.page.click(".dialog-foot .button-primary")
    mia.open("Team")
    anna.member_menu("ben", "Hand the group over")
    anna.page.click(".dialog-foot .button-danger")
    ben.page.wait_for_selector("[data-member=ben] .role-owner")
    ben.page.click(".panel [data-key=dismiss]")
    ben.page.click(".dialog-foot .button-danger")
    for one in team:
        one.page.wait_for_selector(".chat-closed:has-text('dismissed')")


def test_joining_and_leaving(three):
    """An open group is joined by its id; where an approval is needed the owner sees who asks, and lets them in."""
    anna, ben, mia = three
    anna.make_group("Open house", "ben", join="approval")
    anna.panel()
    group_id = anna.page.inner_text(".panel-who .id-chip")  # the panel has it from the conversation's own id
    mia.choose_new("Join a group")
    mia.page.fill("[name=group_id]", group_id)
    mia.page.fill("[name=join_message]", XSS)
    mia.page.click(".dialog-foot .button-primary")
    mia.wait_toast("asked to join")
    anna.wait_words(".person-asks .list-last", XSS)
    anna.page.click(".person-asks .accept")
    mia.open("Open house")
    anna.page.wait_for_selector(".row-system:has-text('You added Mia')")
    mia.panel()
    mia.page.click(".panel [data-key=leave]")
    mia.page.click(".dialog-foot .button-danger")
    mia.page.wait_for_selector(".chat-closed:has-text('You have left')")
    anna.page.wait_for_selector(".row-system:has-text('Mia left the group')")
    anna.page.select_option(".panel [data-key=join]", "open")
    anna.page.wait_for_selector(".row-system:has-text('who may join: Everybody')")
    mia.page.click(".panel [data-key=join]")
    mia.page.wait_for_selector(".composer-field:visible")
    ben.page.wait_for_selector(".sidebar > .list .list-last:has-text('Mia joined the group')")


def test_friends(three):
    """Ask, accept, chat, remark, block and delete; the badge counts who waits, and all strings are shown as text."""
    anna, ben, _ = three
    anna.choose_new("Add a friend")
    anna.page.fill("[name=friend_query]", "ben")
    anna.page.click(".dialog .person-row:has-text('@ben') .button")
    anna.page.fill(".dialog:last-of-type .input:not([name])", XSS)
    anna.page.click(".dialog-foot .button-primary")
    ben.page.wait_for_selector(".count-badge:has-text('1')")
    ben.wait_toast("wants to be your friend")
    anna.page.wait_for_selector(".person-row:has-text('Friend request sent')")
    anna.wait_count("dialog", 1)  # the one with the question has closed
    anna.page.keyboard.press("Escape")
    ben.page.reload()
    ben.wait_ready()
    ben.page.wait_for_selector(".count-badge:has-text('1')")
    ben.page.click(".side-tabs .tab >> nth=1")
    ben.wait_words(".person-asks .list-last", XSS)
    ben.page.click(".person-asks .accept")
    ben.page.wait_for_selector("[data-friend=anna]")
    ben.page.wait_for_selector(".list-row[data-friend=anna] .is-online")
    ben.page.wait_for_selector(".count-badge", state="hidden")
    ben.page.click("[data-friend=anna]")
    ben.say("hello, friend")
    anna.wait_toast("is your friend now")
    anna.wait_badge("1")
    anna.page.click(".side-tabs .tab >> nth=1")
    anna.page.click("[data-friend=ben]")
    anna.wait_text("hello, friend", own=False)

    anna.page.click("[data-friend=ben]", button="right")
    anna.page.click(".menu-item:has-text('Set a remark')")
    anna.page.fill(".dialog .input", XSS_NAME)
    anna.page.click(".dialog-foot .button-primary")
    anna.wait_words(".chat-title", XSS_NAME)
    anna.page.reload()
    anna.wait_words(".chat-title", XSS_NAME)

    anna.panel()
    anna.page.click(".panel [data-key=block]")
    anna.page.click(".dialog-foot .button-danger")
    anna.page.wait_for_selector(".chat-closed:has-text('blocked')")
    ben.say("are you there?")
    ben.page.wait_for_selector(".failure")
    anna.page.click(".panel [data-key=block]:has-text('Unblock')")
    anna.page.wait_for_selector(".composer-field:visible")
    anna.page.click(".panel [data-key=unfriend]")
    anna.page.click(".dialog-foot .button-danger")
    ben.page.wait_for_selector("[data-friend=anna]", state="detached")
    anna.page.wait_for_selector(".panel [data-key=add]")


def test_direct_chats(three, web_server):
    """A pinned chat stands first, a muted one does not count, a deleted one comes back; a bot's text grows."""
    anna, ben, mia = three
    ben.write_to("anna").say("from Ben")
    anna.wait_badge("1")
    mia.write_to("anna").say("from Mia")
    anna.wait_title("(2) imserver")
    anna.row_menu("Ben", "Pin to the top")
    wait_for(anna.page, "() => document.querySelector('.sidebar > .list .list-row').textContent.includes('Ben')")
    anna.row_menu("Mia", "Mute")
    anna.wait_title("(1) imserver")
    anna.page.wait_for_selector(".badge-muted")
    anna.page.reload()
    anna.wait_ready()
    anna.wait_title("(1) imserver")
    anna.page.wait_for_selector(".list-row:has-text('Ben') .list-pin")
    anna.row_menu("Ben", "Delete chat")
    anna.page.click(".dialog-foot .button-danger")
    anna.page.wait_for_selector(".sidebar > .list .list-row:has-text('Ben')", state="detached")
    ben.say("again")
    anna.page.wait_for_selector(".sidebar > .list .list-row:has-text('again')")
    anna.open("Ben")
    anna.page.wait_for_selector(".beginning", state="attached")  # the history is here
    anna.wait_texts(["again"])

    options = [word for key, value in web_server.settings.items() for word in ("--set", f"{key}={value}")]
    subprocess.run(
        [sys.executable, "-m", "imserver", "bot", "add", "ben", *options], cwd=web_server.folder, check=True, timeout=60
    )
    bot = web_server.client()  # what a bot does, on another of Ben's devices
    try:
        bot.login("ben", PASSWORD)
        stream = bot.ok(2021, conversation_id="d:anna:ben", client_id="s1")["stream_id"]
        bot.ok(2022, stream_id=stream, text="once upon")
        anna.page.wait_for_selector(".bubble-growing:has-text('once upon')")
        bot.ok(2022, stream_id=stream, text=" a time")
        anna.page.wait_for_selector(".bubble-growing:has-text('once upon a time')")
        seq = bot.ok(2023, stream_id=stream)["seq"]
        bot.ok(2007, conversation_id="d:anna:ben", seq=seq, emoji="<b/onclick=alert(1)>")
        anna.page.wait_for_selector(".reaction:has-text('<b/onclick=alert(1)>')")
        anna.page.wait_for_selector(".bubble-growing", state="detached")
        anna.wait_text("once upon a time", own=False)
    finally:
        bot.close()


def test_by_keyboard_and_on_a_phone(windows):
    """A group is made, a message reacted to and the panel closed without a pointer; on a phone nothing is wider than it."""
    windows.open().register("ben", "Ben")
    anna = windows.open(viewport=PHONE, locale="zh-CN").register("anna")
    page = anna.page
    page.focus(".new-button")
    page.keyboard.press("Enter")
    page.wait_for_selector(".menu-item:focus")
    page.keyboard.press("Enter")  # the menu's first entry
    page.wait_for_selector("[name=group_name]:focus")
    page.keyboard.type("Ours")
    page.focus(".picker input")
    page.keyboard.type("ben")
    page.wait_for_selector("[data-user=ben]")
    page.keyboard.press("Enter")
    page.wait_for_selector(".chip")
    page.focus("[name=group_name]")
    page.keyboard.press("Enter")
    page.wait_for_selector(".composer-field")
    anna.say("hello")
    anna.wait_tick("sent")
    page.focus(".composer-field")
    for key in ("ArrowUp", "Enter", "ArrowUp", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(".reaction.is-own")
    page.click(".info-button")
    page.wait_for_selector(".panel .person-row")
    wait_for(
        page,
        "() => [document.documentElement, document.querySelector('.panel')].every((one) => one.scrollWidth <= innerWidth)",
    )
    page.keyboard.press("Escape")
    page.wait_for_selector(".panel", state="hidden")
    wait_for(page, "() => document.activeElement.className.includes('info-button')")
