/** The page of somebody who is logged in: the list at the left, the open conversation at the right, or one of them on a phone. */
import { clearToasts, h, icon, iconButton, toast } from "/app/dom.js";
import { connectionBanner } from "/app/banner.js";
import { ChatView } from "/app/chat-view.js";
import { conversationMenu } from "/app/conversation-menu.js";
import { findFriendsDialog } from "/app/friend-actions.js";
import { FriendsView } from "/app/friends-view.js";
import { joinGroupDialog, newGroupDialog } from "/app/group-dialogs.js";
import { t } from "/app/i18n.js";
import { ListView } from "/app/list-view.js";
import { closeMenu, showMenu } from "/app/menu.js";
import { copy } from "/app/message-menu.js";
import { Notifier } from "/app/notify.js";
import { SearchView } from "/app/search.js";
import { settingsEntries } from "/app/settings.js";
import { avatar, explain } from "/app/text.js";
import { directId } from "/imserver.js";

/** @param {import("/app/chat.js").Chat} chat @param {{onLogout: () => void, onOtherAccount: () => void, onLanguage: () => void}} actions */
export function shell(chat, actions) {
  const modifier = /Mac|iP(hone|ad)/.test(navigator.platform) ? "⌘K" : "Ctrl K";
  let view = null;

  const onDeleted = (id) => { if (id === chat.openId) open(null); };
  const list = new ListView(chat, { onOpen: (id) => open(id), onMenu: (id, anchor, point) => conversationMenu(chat, id, anchor, { point, onDeleted }) });
  const friends = new FriendsView(chat, { onOpen: (id) => open(id) });
  const results = new SearchView(chat, { onOpen: (id, seq) => { endSearch(); open(id, seq); }, onPerson: (userId) => startChat(userId) });
  const notifier = new Notifier(chat, (id) => open(id));
  const banner = connectionBanner(chat);

  // ---- the left side
  const field = h("input", { type: "search", class: "search-field", placeholder: t("searchHint"), "aria-label": t("searchHint"), autocomplete: "off", spellcheck: "false", autocapitalize: "none",
    oninput: () => showSearch(), onkeydown: (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && field.value.trim()) { event.preventDefault(); results.first(field.value.trim()); }
      else if (event.key === "Escape") { event.stopPropagation(); if (field.value) endSearch(); else view?.focus(); }
      else if (event.key === "ArrowDown") { event.preventDefault(); (field.value ? results.element : list.element).querySelector("button")?.focus(); }
    } });
  const menuButton = iconButton("menu", t("menu"), () => showMenu(menuButton, [
    { label: t("copyId"), note: chat.me, icon: "copy", run: () => copy(chat.me) },
    ...settingsEntries({ notifier, onLanguage: actions.onLanguage }),
    { label: t("shortcuts"), icon: "search", run: () => toast(t("shortcutsText"), { isError: false }) },
    { label: t("otherAccount"), icon: "users", run: actions.onOtherAccount },
    { label: t("logout"), icon: "logout", isDanger: true, run: actions.onLogout },
  ], { label: t("menu") }), { "aria-haspopup": "menu", "aria-expanded": "false", class: "menu-button" });
  const newButton = iconButton("plus", t("begin"), () => showMenu(newButton, [
    chat.features.groups && { label: t("newGroup"), icon: "users", run: () => newGroupDialog(chat, open) },
    chat.features.groups && { label: t("joinGroup"), icon: "enter", run: () => joinGroupDialog(chat, open) },
    chat.features.friends && { label: t("addFriend"), icon: "personPlus", run: () => findFriendsDialog(chat) },
  ], { label: t("begin") }), { "aria-haspopup": "menu", "aria-expanded": "false", class: "new-button", hidden: true });
  const requestBadge = h("span", { class: "count-badge", hidden: true });
  const tabs = { chats: h("button", { type: "button", class: "tab", "aria-pressed": "true", onclick: () => showPage("chats") }, t("chats")),
    friends: h("button", { type: "button", class: "tab", "aria-pressed": "false", onclick: () => showPage("friends") }, t("friends"), requestBadge) };
  const tabBar = h("div", { class: "tabs side-tabs", role: "group", "aria-label": t("views"), hidden: true }, tabs.chats, tabs.friends);
  let page = "chats";
  const last = recallOpen();
  const empty = h("div", { class: "list-empty", hidden: true }, h("h2", {}, t("emptyTitle")), h("p", {}, t("emptyText")),
    h("div", { class: "only-narrow-block" }, startForm("peer-narrow")));
  const self = h("div", { class: "self" });
  const sidebar = h("nav", { class: "sidebar", "aria-label": t("conversations") },
    h("header", { class: "sidebar-head" }, self, newButton, menuButton),
    h("div", { class: "search" }, icon("search"), field), tabBar,
    list.element, empty, friends.element, results.element);

  // ---- the right side
  const main = h("main", { class: "main" });
  const element = h("div", { class: "shell", dataset: { pane: "list" } }, banner.element, h("div", { class: "panes" }, sidebar, main));

  function showSelf() {
    const name = chat.name(chat.me);
    self.replaceChildren(avatar(chat.me, name, "avatar-small"), h("span", { class: "self-text" }, h("strong", { dir: "auto" }, name), name === chat.me ? null : h("span", { class: "self-id" }, `@${chat.me}`)));
  }

  function showList() {
    // What was open before the reload may be a group to which the user does not belong any more.
    if (view && chat.openId === last && last.startsWith("g:") && !chat.groups.isMember(last.slice(2)) && !chat.client.conversation(last)) return open(null);
    const query = field.value.trim();
    const count = list.render();
    list.element.hidden = Boolean(query) || page !== "chats" || count === 0;
    results.element.hidden = !query;
    empty.hidden = Boolean(query) || page !== "chats" || count > 0 || !chat.isSynced;
    if (friends.isShown !== (!query && page === "friends")) friends.show(!query && page === "friends");
    if (!view) showNothing(count);
  }

  /** The conversations, or the friends. */
  function showPage(name) {
    page = name;
    for (const [key, tab] of Object.entries(tabs)) tab.setAttribute("aria-pressed", String(key === name));
    if (field.value) endSearch(); else showList();
  }

  /** What the server has, and who asks to be a friend. */
  function showFeatures() {
    const { features } = chat;
    tabBar.hidden = !(features.friends || features.groups);
    newButton.hidden = tabBar.hidden;
    const count = chat.friends.incoming.length;
    requestBadge.hidden = count === 0;
    requestBadge.textContent = count > 99 ? "99+" : count || "";
    tabs.friends.setAttribute("aria-label", count ? t("friendsWaiting", { count }) : t("friends"));
  }

  function showSearch() {
    results.show(field.value.trim());
    showList();
  }

  function endSearch() {
    field.value = "";
    showSearch();
  }

  let shownNothing = null;
  function showNothing(count) {
    const name = chat.name(chat.me);
    const isNew = count === 0;
    const isKnown = !isNew || (chat.isSynced && Boolean(chat.people.get(chat.me))); // nobody is greeted by an id that becomes a name a moment later
    const key = JSON.stringify([isKnown, isNew, isKnown && name]);
    if (shownNothing === key || main.querySelector(".start-form input")?.value) return; // what somebody is typing there stays
    shownNothing = key;
    const picture = h("img", { src: "/app/icon.svg", alt: "", width: 72, height: 72 });
    if (!isKnown) return main.replaceChildren(h("div", { class: "nothing" }, picture));
    main.replaceChildren(h("div", { class: "nothing" }, picture,
      h("h1", {}, isNew ? t("welcomeTitle", { name }) : t("pickTitle")),
      h("p", {}, isNew ? t("welcomeText") : t("pickText", { key: modifier })),
      isNew ? startForm("peer") : null));
  }

  /** A field for somebody's user id, and one's own to tell. */
  function startForm(name) {
    const fault = h("p", { class: "form-error", role: "alert", id: `${name}-fault` });
    const input = h("input", { class: "input", name, "aria-describedby": `${name}-fault`, "aria-label": t("userId"), placeholder: t("userId"), autocomplete: "off", autocapitalize: "none", spellcheck: "false", maxlength: 64 });
    return [
      h("form", { class: "start-form", onsubmit: (event) => {
        event.preventDefault();
        fault.textContent = "";
        startChat(input.value.trim(), (text) => { fault.textContent = text; input.focus(); });
      } }, input, h("button", { class: "button button-primary" }, t("startChat"))),
      fault,
      h("p", { class: "your-id" }, t("yourId", { id: "" }), h("button", { type: "button", class: "id-chip", title: t("copyId"), "aria-label": `${t("copyId")}: ${chat.me}`, onclick: () => copy(chat.me) }, chat.me, icon("copy"))),
    ];
  }

  function open(id, seq) {
    closeMenu();
    clearToasts();
    if (id === chat.openId && view) {
      element.dataset.pane = "chat";
      if (seq) view.timeline.reveal(seq);
      view.focus();
      return;
    }
    view?.close();
    view = null;
    chat.open(id, seq);
    shownNothing = null;
    if (id) {
      view = new ChatView(chat, id, { onBack: () => { history.state?.chat ? history.back() : open(null); }, onOpen: (other) => open(other), onDeleted });
      main.replaceChildren(view.element);
      if (element.dataset.pane === "list") history.pushState({ chat: true }, "");
      if (matchMedia("(pointer: fine)").matches) view.focus(); // on a phone the keyboard would cover the messages
    }
    element.dataset.pane = id ? "chat" : "list";
    showList();
    rememberOpen(id);
  }

  async function startChat(userId, complain = toast) {
    if (!userId) return;
    if (userId === chat.me) return complain(t("writeToSelf"));
    try {
      const id = directId(chat.me, userId);
      const isKnown = chat.client.conversation(id)?.last_seq > 0;
      if (!isKnown && (!/^[A-Za-z0-9_.@-]{1,64}$/.test(userId) || !await chat.findPerson(userId))) return complain(t("noSuchUser", { id: userId }));
      endSearch();
      open(id);
    } catch (error) {
      complain(explain(error));
    }
  }

  // ---- the keyboard
  const keys = (event) => {
    const isCommand = (event.ctrlKey || event.metaKey) && !event.altKey;
    if (isCommand && event.key.toLowerCase() === "k") { event.preventDefault(); element.dataset.pane = "list"; field.focus(); field.select(); }
    else if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) { event.preventDefault(); list.step(event.key === "ArrowUp" ? -1 : 1); }
    else if (event.key === "Escape" && view && !document.querySelector("dialog[open]")) {
      if (main.contains(document.activeElement) && document.activeElement !== view.composer.field) view.focus();
      else { const id = chat.openId; open(null); sidebar.querySelector(`[data-conversation="${CSS.escape(id)}"]`)?.focus(); }
    }
  };
  const back = () => { if (view) open(null); };
  document.addEventListener("keydown", keys);
  addEventListener("popstate", back);

  const off = [chat.on("list", showList), chat.on("features", showFeatures), chat.on("friends", showFeatures),
    chat.on("friend-event", (body) => { const text = friendNews(chat, body); if (text) toast(text, { isError: false }); }), chat.on("people", showSelf), chat.on("problem", (error) => toast(explain(error)))];
  showSelf();
  showFeatures();
  showList();
  return {
    element,
    focus: () => field.focus(),
    restore: () => { if (last?.startsWith("d:") || last?.startsWith("g:")) open(last); else if (matchMedia("(pointer: fine)").matches) (main.querySelector("input") ?? field).focus(); },
    close: () => {
      view?.close();
      banner.close();
      notifier.close();
      friends.close();
      for (const one of off) one();
      document.removeEventListener("keydown", keys);
      removeEventListener("popstate", back);
      closeMenu();
    },
  };

  function rememberOpen(id) { try { sessionStorage.setItem("imserver:open", JSON.stringify([chat.me, id])); } catch { /* storage is blocked: a reload begins at the list */ } }
  function recallOpen() { try { const [who, id] = JSON.parse(sessionStorage.getItem("imserver:open")) ?? []; return who === chat.me ? id : null; } catch { return null; } }
}

/** What a push about a friendship says, if it is another's doing. */
function friendNews(chat, { event, user_id: userId, by }) {
  if (by === chat.me) return null;
  const key = { requested: "newsRequested", accepted: "newsAccepted", declined: "newsDeclined" }[event];
  return key ? t(key, { name: chat.name(userId) }) : null;
}
