/** The left side's other page: requests, friends, groups, and whom one blocks. */
import { attempt, confirmDialog } from "/app/dialog.js";
import { h, icon, iconButton } from "/app/dom.js";
import { oncePerFrame } from "/app/emitter.js";
import { findFriendsDialog, remarkDialog } from "/app/friend-actions.js";
import { joinGroupDialog, newGroupDialog } from "/app/group-dialogs.js";
import { t } from "/app/i18n.js";
import { arrows } from "/app/list-view.js";
import { showMenu } from "/app/menu.js";
import { avatar } from "/app/text.js";
import { collect, directId } from "/imserver.js";

const SHOWN = 500;

export class FriendsView {
  /** @param {import("/app/chat.js").Chat} chat @param {{onOpen: (id: string) => void}} actions */
  constructor(chat, { onOpen }) {
    Object.assign(this, { chat, onOpen });
    this.groups = null;
    this.isShown = false;
    this.element = h("div", { class: "friends", hidden: true, role: "region", "aria-label": t("friends"), onkeydown: (event) => arrows(event, this.element) });
    this.update = oncePerFrame(() => this.render());
    this.off = [...["friends", "people", "features", "list"].map((name) => chat.on(name, this.update)), chat.on("group", () => { if (this.isShown) this.#loadGroups(); })];
  }

  close() { for (const off of this.off) off(); }

  show(isShown) {
    this.isShown = isShown;
    this.element.hidden = !isShown;
    if (!isShown) return;
    this.#loadGroups();
    this.signature = null;
    this.render();
  }

  async #loadGroups() {
    if (!this.chat.features.groups) return;
    try {
      this.groups = await collect((cursor) => this.chat.client.groups({ limit: 200, cursor }), "groups", SHOWN);
    } catch (error) {
      if (error.code !== 0) this.chat.emit("problem", error);
      return;
    }
    for (const group of this.groups) if (!this.chat.groups.known.get(group.group_id)) this.chat.groups.known.set(group.group_id, group);
    this.update();
  }

  render() {
    const { chat } = this;
    if (!this.isShown) return;
    const { friends, features } = chat;
    const signature = JSON.stringify([features, friends.isLoaded, friends.incoming, friends.outgoing, [...friends.blocked.keys()], this.groups, friends.sorted().map((one) => [one, chat.name(one.user_id), friends.isOnline(one.user_id)])]);
    if (signature === this.signature) return;
    this.signature = signature;
    const focused = this.element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const { scrollTop } = this.element;
    const isBlockedOpen = this.element.querySelector("details")?.open ?? false;
    const section = (title, rows, more = null) => (rows.length ? [h("div", { class: "results-head" }, h("h3", { class: "results-title" }, title), more), h("ul", { class: "list list-static" }, rows)] : []);
    this.element.replaceChildren(...[
      h("div", { class: "friend-actions" },
        features.friends && this.#action("personPlus", t("addFriend"), () => findFriendsDialog(chat)),
        features.groups && this.#action("users", t("newGroup"), () => newGroupDialog(chat, this.onOpen)),
        features.groups && this.#action("enter", t("joinGroup"), () => joinGroupDialog(chat, this.onOpen))),
      section(t("friendRequests"), friends.incoming.map((one) => this.#request(one))),
      section(t("sentRequests"), friends.outgoing.map((one) => h("li", { class: "person-row" }, avatar(one.user_id, chat.name(one.user_id), "avatar-small"), this.#words(chat.name(one.user_id), t("waitsForAnswer"))))),
      section(t("friendsCount", { count: friends.all.size }), friends.sorted().slice(0, SHOWN).map((one) => this.#friend(one))),
      friends.isLoaded && !friends.all.size ? h("p", { class: "notice" }, t("noFriends")) : null,
      section(t("myGroups"), (this.groups ?? []).map((one) => this.#group(one))),
      friends.blocked.size ? h("details", { class: "blocked", open: isBlockedOpen }, h("summary", {}, t("blockedCount", { count: friends.blocked.size })),
        h("ul", {}, [...friends.blocked.keys()].map((id) => h("li", { class: "person-row" }, avatar(id, chat.name(id), "avatar-small"), this.#words(chat.name(id), `@${id}`),
          h("button", { type: "button", class: "button button-plain button-small", onclick: () => attempt(friends.unblock(id)) }, t("unblock")))))) : null,
    ].flat(Infinity).filter(Boolean));
    this.element.scrollTop = scrollTop;
    if (focused) this.element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }

  #action(name, label, run) {
    return h("button", { type: "button", class: "friend-action", dataset: { key: `do-${name}` }, onclick: run }, h("span", { class: "friend-action-icon" }, icon(name)), h("span", {}, label));
  }

  #words(name, detail) {
    return h("span", { class: "list-text" }, h("span", { class: "list-name", dir: "auto" }, name), h("span", { class: "list-last", dir: "auto" }, detail));
  }

  #request(one) {
    const { chat } = this;
    const name = chat.name(one.user_id);
    return h("li", { class: "person-row person-asks", dataset: { request: one.user_id } }, avatar(one.user_id, name, "avatar-small"), this.#words(name, one.message || `@${one.user_id}`),
      iconButton("check", `${t("accept")}: ${name}`, () => attempt(chat.friends.answer(one.request_id, true)), { "data-key": `accept-${one.request_id}`, class: "accept" }),
      iconButton("close", `${t("decline")}: ${name}`, () => attempt(chat.friends.answer(one.request_id, false)), { "data-key": `decline-${one.request_id}` }));
  }

  #friend({ user_id: id, nickname, remark }) {
    const { chat } = this;
    const name = chat.name(id);
    const isOnline = chat.friends.isOnline(id);
    const menu = (anchor, point) => showMenu(anchor, [
      { label: t("writeTo"), icon: "chat", run: () => this.onOpen(directId(chat.me, id)) },
      { label: t("setRemark"), icon: "compose", run: () => remarkDialog(chat, id) },
      chat.features.groups && { label: t("newGroupWith", { name }), icon: "users", run: () => newGroupDialog(chat, this.onOpen, [id]) },
      chat.friends.isBlocked(id) ? { label: t("unblock"), icon: "block", run: () => attempt(chat.friends.unblock(id)) }
        : { label: t("block"), icon: "block", isDanger: true, run: async () => { if (await confirmDialog(t("block"), t("blockText", { name }), t("block"))) await attempt(chat.friends.block(id)); } },
      { label: t("deleteFriend"), icon: "trash", isDanger: true, run: async () => { if (await confirmDialog(t("deleteFriend"), t("deleteFriendText", { name }), t("deleteFriend"))) await attempt(chat.friends.remove(id)); } },
    ], { label: name, point });
    const button = h("button", { type: "button", class: "list-row", dataset: { key: `friend-${id}`, friend: id }, onclick: () => this.onOpen(directId(chat.me, id)),
      oncontextmenu: (event) => { event.preventDefault(); menu(button, event.clientX ? { left: event.clientX, top: event.clientY } : undefined); } },
    h("span", { class: `list-face ${isOnline ? "is-online" : ""}` }, avatar(id, name, "avatar-medium"), isOnline ? h("span", { class: "visually-hidden" }, t("online")) : null),
    this.#words(name, remark ? `${nickname} · @${id}` : `@${id}`));
    const more = h("button", { type: "button", class: "row-more", tabIndex: -1, "aria-label": t("memberActions", { name }), "aria-haspopup": "menu", onclick: () => menu(more) }, icon("down"));
    return h("li", { class: "list-item" }, button, more);
  }

  #group({ group_id: id, name, member_count: count }) {
    return h("li", { class: "list-item" }, h("button", { type: "button", class: "list-row", dataset: { key: `group-${id}`, group: id }, onclick: () => this.onOpen(`g:${id}`) },
      avatar(`g:${id}`, name, "avatar-medium"), this.#words(name, t("members", { count }))));
  }
}
