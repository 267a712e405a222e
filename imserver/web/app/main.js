/** The beginning: who is here, and which of the screens they see. */
import * as accounts from "/app/accounts.js";
import { preferences } from "/app/accounts.js";
import { Chat } from "/app/chat.js";
import { h, toast } from "/app/dom.js";
import { setLanguage, t } from "/app/i18n.js";
import { loginView } from "/app/login.js";
import { applySettings } from "/app/settings.js";
import { shell } from "/app/shell.js";
import { explain } from "/app/text.js";
import { ImClient } from "/imserver.js";

const root = document.getElementById("app");
let screen = null;

function show(next) {
  screen?.close();
  screen = next;
  root.replaceChildren(next.element);
}

function showLogin(notice) {
  document.title = t("appName");
  show(loginView({
    lastUser: accounts.lastUser(), notice, onEnter: enter,
    onLanguage: (name) => { preferences.set("language", name); setLanguage(name); showLogin(notice); },
  }));
  screen.focus();
}

/** Register if wanted, log in, go on to the chat. */
async function enter({ isNew, userId, password, nickname, isShared }) {
  if (isNew) {
    const guest = new ImClient();
    try {
      await guest.register(userId, password, nickname);
    } finally {
      guest.close();
    }
  }
  const account = await accounts.open(userId, { isShared });
  const chat = new Chat(account);
  try {
    await chat.client.login(userId, password);
  } catch (error) {
    chat.close();
    account.release();
    throw error;
  }
  start(chat, account);
}

/** Take up the session of before the reload. */
async function resume({ userId, isShared }) {
  const account = await accounts.open(userId, { isShared });
  const chat = new Chat(account);
  if (!await chat.client.restore()) return showLogin();
  start(chat, account);
}

function start(chat, account) {
  const build = () => {
    show(shell(chat, {
      onLanguage: build,
      onLogout: () => leave(() => chat.client.logout().catch((error) => toast(explain(error)))),
      onOtherAccount: () => leave(async () => { accounts.leaveShared(); await forgetTab(); }),
    }));
    screen.restore();
  };
  const leave = async (task, notice) => {
    off();
    await task();
    chat.close();
    account.release();
    showLogin(notice);
  };
  const forgetTab = async () => { try { sessionStorage.removeItem("imserver:session"); } catch { /* blocked: there is nothing in it */ } };
  const off = chat.on("ended", ({ reason }) => {
    if (reason === "replaced") return showReplaced(chat, build);
    leave(async () => {}, t(reason === "kicked" ? "endedKicked" : "endedUnauthenticated"));
  });
  build();
}

/** The same device is in use elsewhere: two windows that fight for it help nobody. */
function showReplaced(chat, build) {
  const button = h("button", { type: "button", class: "button button-primary", onclick: () => {
    build();
    chat.client.connect().catch((error) => toast(explain(error)));
  } }, t("useHere"));
  show({ element: h("main", { class: "nothing nothing-page" }, h("img", { src: "/app/icon.svg", alt: "", width: 72, height: 72 }), h("h1", {}, t("endedReplaced")), button), close: () => {} });
  button.focus();
}

applySettings();
const who = accounts.current();
if (who) resume(who); else showLogin();
