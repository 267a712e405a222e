/** The open conversation: its head, its messages, the field to write in. */
import { announce, h, icon, iconButton, toast } from "/app/dom.js";
import { Composer } from "/app/composer.js";
import { QUICK } from "/app/emoji.js";
import { shortTime, t } from "/app/i18n.js";
import { showMenu } from "/app/menu.js";
import { avatar, explain, summary } from "/app/text.js";
import { TimelineView } from "/app/timeline-view.js";

export class ChatView {
  /** @param {import("/app/chat.js").Chat} chat @param {string} id @param {{onBack: () => void}} actions */
  constructor(chat, id, { onBack }) {
    Object.assign(this, { chat, id });
    this.timeline = new TimelineView(chat, id, {
      onRead: (seq) => chat.client.markRead(id, seq),
      onMenu: (item, anchor, point) => this.#menu(item, anchor, point),
      onLeave: () => this.composer.focus(),
    });
    this.composer = new Composer(chat, id, { onSent: () => this.timeline.toEnd(), onUp: () => this.timeline.focusLast() });
    this.title = h("h2", { class: "chat-title", dir: "auto" });
    this.detail = h("p", { class: "chat-detail" });
    this.face = h("span", { class: "chat-face" });
    this.element = h("section", { class: "chat", "aria-label": t("messages"),
      ondragenter: (event) => this.#drag(event), ondragover: (event) => this.#drag(event),
      ondragleave: (event) => { if (!this.element.contains(event.relatedTarget)) this.element.classList.remove("is-dropping"); },
      ondrop: (event) => this.#drop(event) },
    h("header", { class: "chat-head" }, iconButton("back", t("back"), onBack, { class: "only-narrow" }), this.face, h("div", { class: "chat-who" }, this.title, this.detail)),
    this.timeline.element, this.composer.element,
    h("div", { class: "drop-hint", "aria-hidden": "true" }, icon("attach"), t("dropHere")));
    this.head();
    this.timeline.render();
    this.off = [
      chat.on("timeline", (changed) => { if (changed === id) this.timeline.update(); }),
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
    this.chat.told(this.id, false);
  }

  focus() { this.composer.focus(); }

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
    this.face.classList.toggle("is-online", Boolean(conversation.peer && chat.presence.get(conversation.peer)?.online));
  }

  #detail(conversation, name) {
    const { chat } = this;
    const typing = chat.whoTypes(this.id);
    if (typing.length) return { text: conversation.kind === "direct" ? t("typing") : t("typingName", { name: chat.name(typing[0]) }), isLive: true };
    if (conversation.kind === "group") {
      const count = chat.groups.get(this.id.slice(2))?.member_count;
      return { text: count ? t("members", { count }) : t("group"), isLive: false };
    }
    const id = name === conversation.peer ? "" : `@${conversation.peer}`;
    const presence = chat.presence.get(conversation.peer);
    const state = !presence ? "" : presence.online ? t("online") : presence.last_seen ? t("lastSeen", { time: shortTime(presence.last_seen) }) : t("offline");
    return { text: [id, state].filter(Boolean).join(" · "), isLive: Boolean(presence?.online) };
  }

  #drag(event) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    this.element.classList.add("is-dropping");
  }

  #drop(event) {
    this.element.classList.remove("is-dropping");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    this.chat.upload(this.id, event.dataTransfer.files);
    this.timeline.toEnd();
  }

  #menu({ message }, anchor, point) {
    if (!message.seq || message.recalled) return;
    const { chat } = this;
    const isOwn = message.from === chat.me;
    const text = summary(message, chat.me);
    const attempt = (promise) => promise.catch((error) => toast(explain(error)));
    const { recall, edit, react } = chat.features;
    showMenu(anchor, [
      { label: t("reply"), icon: "reply", run: () => this.composer.reply(message) },
      { label: t("copy"), icon: "copy", run: () => copy(typeof message.body === "string" ? message.body : text) },
      edit && isOwn && typeof message.body === "string" && { label: t("edit"), icon: "compose", run: () => this.composer.edit(message) },
      ...(react ? QUICK.map((emoji) => ({ label: `${t("react")} ${emoji}`, icon: "smile", run: () => attempt(chat.client.react(this.id, message.seq, emoji)) })) : []),
      recall && isOwn && { label: t("recall"), icon: "trash", isDanger: true, run: () => attempt(chat.client.recall(this.id, message.seq)) },
    ], { label: t("messageMenu"), point });
  }
}

/** Copy text; where the page has no clipboard (no TLS), by selection. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "visually-hidden", value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(t("copied"), { isError: false });
  announce(t("copied"));
}
