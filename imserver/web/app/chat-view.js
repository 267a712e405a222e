/** The open conversation: its head, its messages, the field to write in. */
import { h, icon, iconButton } from "/app/dom.js";
import { Composer } from "/app/composer.js";
import { dateTime, shortTime, t } from "/app/i18n.js";
import { InfoPanel } from "/app/info-panel.js";
import { messageMenu } from "/app/message-menu.js";
import { showReaders } from "/app/receipts.js";
import { avatar } from "/app/text.js";
import { TimelineView } from "/app/timeline-view.js";

export class ChatView {
  /** @param {import("/app/chat.js").Chat} chat @param {string} id @param {{onBack: () => void, onOpen: (id: string) => void, onDeleted: (id: string) => void}} actions */
  constructor(chat, id, { onBack, onOpen, onDeleted }) {
    Object.assign(this, { chat, id });
    this.timeline = new TimelineView(chat, id, {
      onRead: (seq) => chat.client.markRead(id, seq),
      onMenu: (item, anchor, point) => this.#menu(item, anchor, point),
      onReaders: (message) => showReaders(chat, message),
      onLeave: () => this.composer.focus(),
    });
    this.composer = new Composer(chat, id, { onSent: () => this.timeline.toEnd(), onUp: () => this.timeline.focusLast() });
    this.panel = new InfoPanel(chat, id, { onOpen, onDeleted, onClose: () => this.infoButton.focus() });
    this.infoButton = iconButton("info", t(id.startsWith("g:") ? "groupInfo" : "personInfo"), () => this.panel.toggle(), { "aria-expanded": "false", class: "info-button" });
    this.panel.button = this.infoButton;
    this.closed = h("p", { class: "chat-closed", role: "status", hidden: true });
    this.title = h("h2", { class: "chat-title", dir: "auto" });
    this.detail = h("p", { class: "chat-detail" });
    this.face = h("span", { class: "chat-face" });
    const talk = h("section", { class: "chat", "aria-label": t("messages"),
      ondragenter: (event) => this.#drag(event), ondragover: (event) => this.#drag(event),
      ondragleave: (event) => { if (!talk.contains(event.relatedTarget)) talk.classList.remove("is-dropping"); },
      ondrop: (event) => this.#drop(event) },
    h("header", { class: "chat-head" }, iconButton("back", t("back"), onBack, { class: "only-narrow" }), h("div", { class: "chat-top", onclick: () => this.panel.toggle() }, this.face, h("div", { class: "chat-who" }, this.title, this.detail)), this.infoButton),
    this.timeline.element, this.composer.element, this.closed,
    h("div", { class: "drop-hint", "aria-hidden": "true" }, icon("attach"), t("dropHere")));
    this.talk = talk;
    this.element = h("div", { class: "chat-split" }, talk, this.panel.element);
    this.head();
    this.timeline.render();
    this.off = [
      chat.on("timeline", (changed) => { if (changed === id) { this.timeline.update(); this.timeline.receipts?.look(); } }),
      chat.on("group", (changed) => { if (`g:${changed}` === id) { this.head(); this.composer.completion?.arrived(); } }),
      chat.on("features", () => { this.timeline.update(); this.timeline.receipts?.look(); }),
      chat.on("people", () => { this.head(); this.timeline.update(); }),
      chat.on("list", () => this.head()),
      chat.on("typing", (changed) => { if (changed === id) this.head(); }),
      chat.on("state", ({ name }) => { if (name === "online" && chat.timeline(id).error) this.timeline.retry(); }),
      chat.on("reveal", (seq) => this.timeline.reveal(seq)),
    ];
    this.seen = () => this.timeline.tellRead();
    addEventListener("focus", this.seen);
    document.addEventListener("visibilitychange", this.seen);
  }

  close() {
    for (const off of this.off) off();
    removeEventListener("focus", this.seen);
    document.removeEventListener("visibilitychange", this.seen);
    this.timeline.close();
    this.panel.close();
    this.chat.told(this.id, false);
  }

  focus() { if (this.composer.element.hidden) this.timeline.scroller.focus(); else this.composer.focus(); }

  /** The head: name, and what there is to know about them now. */
  head() {
    const { chat } = this;
    const conversation = chat.conversation(this.id);
    const name = chat.title(conversation);
    const key = JSON.stringify([name]);
    if (this.shownName !== key) {
      this.shownName = key;
      this.title.textContent = name;
      this.face.replaceChildren(avatar(conversation.peer ?? this.id, name));
    }
    const { text, isLive } = this.#detail(conversation, name);
    if (this.detail.textContent !== text) this.detail.textContent = text;
    this.detail.classList.toggle("is-live", isLive);
    const why = this.#whyClosed(conversation);
    if (why && this.composer.element.contains(document.activeElement)) this.timeline.scroller.focus();
    this.composer.element.hidden = Boolean(why);
    this.closed.hidden = !why;
    if (this.closed.textContent !== why) this.closed.textContent = why;
    this.face.classList.toggle("is-online", Boolean(conversation.peer && chat.presence.get(conversation.peer)?.online));
  }

  #detail(conversation, name) {
    const { chat } = this;
    const typing = chat.whoTypes(this.id);
    if (typing.length) return { text: conversation.kind === "direct" ? t("typing") : t("typingName", { name: chat.name(typing[0]) }), isLive: true };
    if (conversation.kind === "group") {
      const count = chat.groups.isMember(this.id.slice(2)) && chat.groups.get(this.id.slice(2))?.member_count;
      return { text: count ? t("members", { count }) : t("group"), isLive: false };
    }
    const id = name === conversation.peer ? "" : `@${conversation.peer}`;
    const presence = chat.presence.get(conversation.peer);
    const state = !presence ? "" : presence.online ? t("online") : presence.last_seen ? t("lastSeen", { time: shortTime(presence.last_seen) }) : t("offline");
    return { text: [id, state].filter(Boolean).join(" · "), isLive: Boolean(presence?.online) };
  }

  /** Why the user cannot write here; "": they can. */
  #whyClosed(conversation) {
    const { chat } = this;
    if (conversation.kind !== "group") return chat.friends.isBlocked(conversation.peer) ? t("closedBlocked") : "";
    const id = this.id.slice(2);
    if (!chat.groups.isMember(id)) {
      const { event, by } = chat.groups.farewells.get(id) ?? {};
      if (event === "removed" && by) return t("closedRemovedBy", { who: chat.name(by) });
      return t({ removed: "closedRemoved", left: "closedLeft", dismissed: "closedDismissed" }[event] ?? "closedNoMember");
    }
    const group = chat.groups.get(id);
    if (!group || group.role !== "member") return "";
    if (group.muted) return t("closedAllMuted");
    return group.muted_until > chat.client.serverNow() ? t("closedMuted", { time: dateTime(group.muted_until) }) : "";
  }

  #drag(event) {
    if (!event.dataTransfer.types.includes("Files") || this.composer.element.hidden) return;
    event.preventDefault();
    this.talk.classList.add("is-dropping");
  }

  #drop(event) {
    this.talk.classList.remove("is-dropping");
    if (this.composer.element.hidden || !event.dataTransfer.files.length) return;
    event.preventDefault();
    this.chat.upload(this.id, event.dataTransfer.files);
    this.timeline.toEnd();
  }

  #menu({ message }, anchor, point) {
    messageMenu(this.chat, message, { anchor, point, composer: this.composer, mayWrite: !this.composer.element.hidden });
  }
}
