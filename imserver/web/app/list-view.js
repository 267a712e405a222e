/** The conversations, newest first; arrow keys move among them. */
import { h, icon, reconcile } from "/app/dom.js";
import { exactTime, shortTime, t } from "/app/i18n.js";
import { isServers } from "/app/system-text.js";
import { avatar, summary } from "/app/text.js";

const MAX_ROWS = 300; // shown at once; the rest is found by the search, or by going down

export class ListView {
  /** @param {import("/app/chat.js").Chat} chat @param {{onOpen: (id: string) => void, onMenu: (id: string, anchor: HTMLElement, point?: object) => void}} actions */
  constructor(chat, { onOpen, onMenu }) {
    Object.assign(this, { chat, onOpen, onMenu });
    this.rows = new Map();
    this.limit = MAX_ROWS;
    this.element = h("ul", { class: "list", "aria-label": t("conversations"), onkeydown: (event) => arrows(event, this.element),
      onscroll: () => { if (this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 300 && this.rows.size >= this.limit) { this.limit += MAX_ROWS; this.render(); } } });
  }

  render() {
    const { chat } = this;
    const focused = document.activeElement?.dataset?.conversation; // before a row is made anew, which takes its button away
    const hadFocus = this.element.contains(document.activeElement);
    const all = chat.list();
    const nodes = all.slice(0, this.limit).map((one) => this.#row(one));
    const shown = new Set(all.slice(0, this.limit).map((one) => one.conversation_id));
    for (const id of this.rows.keys()) if (!shown.has(id)) this.rows.delete(id);
    reconcile(this.element, nodes);
    if (hadFocus && focused && !this.element.contains(document.activeElement)) this.rows.get(focused)?.element.firstChild.focus({ preventScroll: true });
    return all.length;
  }

  #row(one) {
    const { chat } = this;
    const id = one.conversation_id;
    const name = chat.title(one);
    const isOpen = id === chat.openId;
    const typing = chat.whoTypes(id);
    const last = one.pending ? { ...one.pending, from: chat.me } : one.last_message;
    const prefix = !last || last.recalled ? "" : last.from === chat.me ? "" : one.kind === "group" && !isServers(last) ? `${chat.name(last.from)}: ` : "";
    const text = typing.length ? t("typing") : summary(last, chat);
    const draft = !isOpen && chat.drafts.get(id)?.trim();
    const isOnline = Boolean(one.peer && chat.presence.get(one.peer)?.online);
    const status = !last || last.from !== chat.me || last.recalled ? null : one.pending ? one.pending.status : one.kind === "direct" && last.seq <= one.peer_read_seq ? "read" : "sent";
    const signature = JSON.stringify([name, isOpen, typing.length, prefix, text, draft, one.unread, isOnline, status, one.time && shortTime(one.time), one.muted, one.pinned, one.left, chat.hasMention(id)]);
    const kept = this.rows.get(id);
    if (kept?.signature === signature) return kept.element;
    const button = h("button", { type: "button", class: `list-row ${isOpen ? "is-open" : ""} ${one.unread ? "is-unread" : ""} ${one.left ? "is-left" : ""}`, "aria-current": isOpen ? "true" : undefined, dataset: { conversation: id }, onclick: () => this.onOpen(id),
      oncontextmenu: (event) => { event.preventDefault(); this.onMenu(id, button, event.clientX ? { left: event.clientX, top: event.clientY } : undefined); } },
      h("span", { class: `list-face ${isOnline ? "is-online" : ""}` }, avatar(one.peer ?? id, name), isOnline ? h("span", { class: "visually-hidden" }, t("online")) : null),
      h("span", { class: "list-text" },
        h("span", { class: "list-top" }, h("span", { class: "list-name", dir: "auto" }, name), one.kind === "group" ? icon("users", "list-kind") : null, one.muted ? icon("bellOff", "list-kind") : null,
          one.time ? h("time", { class: "list-time", datetime: new Date(one.time).toISOString(), title: exactTime(one.time) }, shortTime(one.time)) : null),
        h("span", { class: "list-bottom" },
          status ? h("span", { class: `tick tick-${status}`, role: "img", "aria-label": t(`status${status[0].toUpperCase()}${status.slice(1)}`) }, icon({ pending: "clock", failed: "alert", sent: "check", read: "checks" }[status])) : null,
          h("span", { class: `list-last ${typing.length ? "is-live" : ""}`, dir: "auto" }, draft ? [icon("compose", "list-draft"), draft] : typing.length ? text : prefix + text),
          one.unread && chat.hasMention(id) ? h("span", { class: "at-badge", role: "img", "aria-label": t("mentionsYou"), title: t("mentionsYou") }, "@") : null,
          one.pinned ? h("span", { class: "list-pin", role: "img", "aria-label": t("pinned"), title: t("pinned") }, icon("pin")) : null,
          one.unread ? h("span", { class: `badge ${one.muted ? "badge-muted" : ""}`, "aria-label": t("unreadCount", { count: one.unread }) }, one.unread > 999 ? "999+" : one.unread) : null)));
    const element = kept?.element ?? h("li", {});
    const more = h("button", { type: "button", class: "row-more", tabIndex: -1, "aria-label": t("chatMenu"), title: t("chatMenu"), "aria-haspopup": "menu", onclick: () => this.onMenu(id, more) }, icon("down"));
    element.className = "list-item";
    element.replaceChildren(button, more);
    this.rows.set(id, { signature, element });
    return element;
  }

  /** Open the conversation before or after the open one. */
  step(by) {
    const ids = this.chat.list().map((one) => one.conversation_id);
    const at = ids.indexOf(this.chat.openId);
    const next = ids[at < 0 ? 0 : Math.max(0, Math.min(ids.length - 1, at + by))];
    if (next) this.onOpen(next);
  }
}

/** Up, down, Home and End among the buttons of a list. */
export function arrows(event, list) {
  const buttons = [...list.querySelectorAll("button.list-row")];
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (to === undefined || event.altKey || !buttons.length) return;
  event.preventDefault();
  buttons[Math.max(0, Math.min(buttons.length - 1, to))].focus();
}
