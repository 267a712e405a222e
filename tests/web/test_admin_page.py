"""The admin page in a browser: who gets in, what is shown while one looks, and what it does to users."""

import subprocess
import sys

import pytest
from pages import wait_for
from process import PASSWORD

XSS = '<img src=x onerror="document.title=1">'


@pytest.fixture
def admin(windows, web_server):
    """A window in which an administrator is logged in."""
    data = f"server.data_dir={web_server.data}"
    add = [sys.executable, "-m", "imserver", "user", "add", "root", "--role", "admin", "--password", PASSWORD, "--set", data]
    subprocess.run(add, check=True, cwd=web_server.folder, capture_output=True, timeout=60)
    page = windows.open(path="admin").page
    log_in(page, "root")
    page.wait_for_selector(".tile")
    return page


def log_in(page, user):
    page.fill("input[name=user_id]", user)
    page.fill("input[name=password]", PASSWORD)
    page.click("#login button")


def test_others_do_not_get_in(windows, web_server):
    """A user without the role is told so, and sees nothing."""
    user = web_server.register()
    page = windows.open(path="admin").page
    log_in(page, user)
    page.get_by_text("this user is no administrator").wait_for()
    page.wait_for_selector("#page", state="hidden")
    windows.wait_fault(page, "403")  # the browser's own word on the refused request


def test_figures_move_while_one_looks(admin, web_server):
    """Connections and messages are counted, the command is listed, the lines are drawn."""
    alice, bob = web_server.login(), web_server.login()
    for index in range(3):
        alice.ok(2001, to=bob.user, client_id=str(index), body="hi")
    admin.get_by_role("cell", name="2001 SEND").wait_for()
    admin.locator(".tile", has_text="messages since the start").filter(has_text="3").wait_for()
    admin.locator(".tile", has_text="users online").filter(has=admin.get_by_text("2", exact=True)).wait_for()
    wait_for(admin, "() => Boolean(document.querySelector('.chart polyline').getAttribute('points'))")
    wait_for(admin, "() => document.querySelector('#state').textContent", "live")


def test_a_user_is_found_kicked_and_disabled(admin, web_server):
    """The devices of a user are shown and ended; a disabled user cannot log in; what users typed is text."""
    victim = web_server.register("mallory", nickname=XSS)
    client = web_server.login(victim)
    admin.click("nav >> text=Users")
    admin.wait_for_selector("#users button:has-text('root')")
    admin.fill("input[type=search]", "mall")
    admin.get_by_role("button", name="Find").click()
    admin.wait_for_selector("#users button:has-text('root')", state="detached")
    wait_for(admin, "() => document.querySelector('#users tbody tr td:nth-child(2)').textContent", XSS)
    admin.click("#users button:has-text('mallory')")
    admin.wait_for_selector("text=Devices of mallory")
    admin.evaluate("window.confirm = () => true")
    admin.click("#users td button:has-text('Kick')")
    assert client.goaway() == "kicked"
    admin.wait_for_selector("#users td button:has-text('Kick')", state="detached")  # all of it has been drawn anew
    admin.click("#users button:has-text('Disable')")
    admin.wait_for_selector("#users button:has-text('Enable')")
    with web_server.client() as refused:
        refused.fails(403, 1002, user_id=victim, password=PASSWORD)


def test_plugins_and_configuration(admin, web_server):
    """The plugins with their commands; the settings in force without the secret."""
    admin.click("nav >> text=Plugins")
    admin.get_by_role("cell", name="/v1/admin/stats").wait_for()
    admin.click("nav >> text=Configuration")
    admin.wait_for_selector("#config pre")
    shown = admin.locator("#config pre").inner_text()
    assert str(web_server.data) in shown
    assert web_server.secret.decode() not in shown


def test_the_session_ends(admin):
    """After the log-out the page shows the form, also after a reload."""
    admin.click("#logout")
    admin.wait_for_selector("#login:not([hidden])")
    admin.reload()
    admin.wait_for_selector("#login:not([hidden])")
    admin.wait_for_selector("#page", state="hidden")
