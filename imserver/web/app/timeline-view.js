/** The messages of the open conversation: the timeline's window as elements, the scrolling, the keyboard. */
import { h, icon, reconcile } from "/app/dom.js";
import { bubble, uploadBubble } from "/app/bubble.js";
import { oncePerFrame } from "/app/emitter.js";
import { dayName, isSameDay, language, t } from "/app/i18n.js";
import { Receipts } from "/app/receipts.js";
import { isServers } from "/app/system-text.js";
import { summary } from "/app/text.js";

const GROUP_MS = 5 * 60_000; // messages of one sender within this time stand together
const NEAR_PX = 600; // so far from an edge the next page is fetched
const BOTTOM_PX = 40;

export class TimelineView {
  /** @param {import("/app/chat.js").Chat} chat @param {string} id @param {object} actions see bubble.js; `onRead(seq)` */
  constructor(chat, id, actions) {
    Object.assign(this, { chat, id, actions });
    this.rows = new Map(); // key -> {signature, element}
    this.quotes = new Map(); // seq -> message, null (gone) or undefined (asked)
    this.isAtEnd = true;
    this.receipts = id.startsWith("g:") ? new Receipts(chat, id, () => this.update()) : null;
    this.list = h("div", { class: "timeline-rows" });
    this.newest = h("button", { type: "button", class: "to-latest", hidden: true, "aria-label": t("toLatest"), title: t("toLatest"), onclick: () => this.toEnd() }, h("span", { class: "to-latest-count" }), icon("down"));
    this.scroller = h("div", { class: "timeline", tabIndex: 0, role: "log", "aria-live": "off", "aria-label": t("messages"),
      onscroll: () => this.#scrolled(), onkeydown: (event) => this.#key(event), onfocus: (event) => { if (event.target === this.scroller) this.focusLast(); } }, this.list);
    this.element = h("div", { class: "timeline-box" }, this.scroller, this.newest);
    this.update = oncePerFrame(() => this.render());
    this.resize = new ResizeObserver(() => { if (this.isAtEnd) this.#jumpToEnd(); });
    this.resize.observe(this.scroller);
    this.resize.observe(this.list);
  }

  get timeline() { return this.chat.timeline(this.id); }

  close() {
    this.isClosed = true;
    this.receipts?.close();
    this.resize.disconnect();
  }

  // ---------------------------------------------------------------- what is shown

  /** The items in their order: days, the line of the unread, messages, what is on its way. */
  #items() {
    const { chat, timeline } = this;
    const conversation = chat.conversation(this.id);
    const isGroup = conversation.kind === "group";
    const messages = timeline.items.map((message) => ({ message, status: message.from !== chat.me || message.recalled ? null
      : !isGroup && message.seq <= conversation.peer_read_seq ? "read" : "sent" }));
    if (!timeline.hasNewer) {
      for (const one of chat.pending(this.id)) {
        messages.push({ message: { ...one, from: chat.me, sent_at: one.created_at }, status: one.status, error: one.error });
      }
      for (const one of chat.growing(this.id)) messages.push({ message: { ...one, type: "text", body: `${one.isWhole ? "" : "…"}${one.text}`, sent_at: one.started_at }, isGrowing: true });
    }
    const lastOwn = this.receipts && messages.findLast(({ message }) => message.seq && message.from === chat.me && !message.recalled && message.type !== "system");
    if (lastOwn) lastOwn.readers = this.receipts.of(lastOwn.message.seq);
    const items = [];
    for (const [index, item] of messages.entries()) {
      const before = messages[index - 1]?.message;
      const after = messages[index + 1]?.message;
      const { message } = item;
      const isNewDay = !before || !isSameDay(before.sent_at, message.sent_at);
      const isUnreadLine = timeline.firstUnread && message.seq >= timeline.firstUnread && message.from !== chat.me && (!before?.seq || before.seq < timeline.firstUnread || before.from === chat.me)
        && !items.some((one) => one.key === "unread");
      if (isNewDay) items.push({ key: `day-${new Date(message.sent_at).toDateString()}`, day: message.sent_at });
      if (isUnreadLine) items.push({ key: "unread", isUnread: true });
      const follows = (a, b) => a && b && a.from === b.from && !isServers(a) && Math.abs(b.sent_at - a.sent_at) < GROUP_MS && isSameDay(a.sent_at, b.sent_at);
      const isFirst = isUnreadLine || !follows(before, message);
      const isLast = !follows(message, after) || (timeline.firstUnread && after?.seq === timeline.firstUnread);
      const key = item.isGrowing ? `grow-${message.from}-${message.client_id}` : message.from === chat.me && message.client_id ? `own-${message.client_id}` : `m-${message.seq}`;
      items.push({ ...item, key, isFirst, isLast: Boolean(isLast), isGroup });
    }
    if (!timeline.hasNewer) for (const upload of chat.uploadsOf(this.id)) items.push({ key: upload.id, upload });
    return items;
  }

  render() {
    if (this.isClosed) return;
    const { timeline } = this;
    const anchor = this.isAtEnd ? null : this.#anchor();
    const nodes = [];
    if (timeline.isLoaded && !timeline.hasOlder) nodes.push(this.#keep("begin", `${language()}${timeline.items.length > 0}`, () => this.#beginning()));
    else if (timeline.error) nodes.push(this.#keep("error", timeline.error.message, () => h("div", { class: "notice" }, t("loadFailed"), " ",
      h("button", { type: "button", class: "link-button", onclick: () => this.retry() }, t("retry")))));
    else nodes.push(this.#keep("loading", "", () => h("div", { class: "notice", role: "status" }, h("span", { class: "spinner" }), h("span", { class: "visually-hidden" }, t("loading")))));
    const seen = new Set(["begin", "error", "loading"]);
    for (const item of this.#items()) {
      seen.add(item.key);
      nodes.push(this.#node(item));
    }
    for (const key of this.rows.keys()) if (!seen.has(key)) this.rows.delete(key);
    const hadFocus = this.list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    reconcile(this.list, nodes);
    if (hadFocus && !this.list.contains(document.activeElement)) this.rows.get(hadFocus)?.element.focus({ preventScroll: true });
    if (this.isAtEnd) this.#jumpToEnd();
    else if (anchor) this.#restore(anchor);
    this.#showNewest();
    if (!timeline.isLoading && !timeline.error) this.#fill();
  }

  #node(item) {
    const { chat } = this;
    if (item.day) return this.#keep(item.key, dayName(item.day), () => h("div", { class: "day", role: "separator" }, h("span", {}, dayName(item.day))));
    if (item.isUnread) return this.#keep("unread", "", () => h("div", { class: "unread-line", role: "separator" }, h("span", {}, t("newMessages"))));
    if (item.upload) return this.#keepUpload(item);
    const { message } = item;
    const quoted = message.reply_to ? this.#quote(message.reply_to) : undefined;
    const signature = JSON.stringify([message.seq, message.rev, message.sent_at, message.recalled, message.edited_at, message.reactions, item.status, item.error, item.isFirst, item.isLast,
      message.from === chat.me ? "" : chat.name(message.from), quoted && [quoted.from, quoted.rev, quoted.recalled, quoted.edited_at], quoted === null, message.edited_at || item.isGrowing ? message.body : "", item.readers,
      message.type === "system" || message.recalled ? summary(message, chat) : "", message.mentions?.map((id) => chat.name(id)), chat.features.react]);
    return this.#keep(item.key, signature, () => bubble(chat, item, { ...this.actions, quoteOf: (seq) => this.#quote(seq), onQuote: (seq) => this.reveal(seq) }));
  }

  #keep(key, signature, make) {
    const kept = this.rows.get(key);
    if (kept?.signature === signature) return kept.element;
    const element = make();
    element.dataset.key = key;
    this.rows.set(key, { signature, element });
    return element;
  }

  /** The bar moves many times a second: the row stays. */
  #keepUpload({ key, upload }) {
    const element = this.#keep(key, String(upload.error?.message ?? ""), () => uploadBubble(upload));
    const bar = element.querySelector("progress");
    if (bar) {
      bar.value = Math.round(upload.progress * 100);
      bar.setAttribute("aria-label", t("uploading", { name: upload.name, percent: bar.value }));
    }
    return element;
  }

  #beginning() {
    const conversation = this.chat.conversation(this.id);
    const name = this.chat.title(conversation);
    return h("div", { class: "beginning" }, t(conversation.kind === "group" ? "firstMessageGroup" : "firstMessage", { name }));
  }

  /** The message that another one answers: from the window, or from the server, once. */
  #quote(seq) {
    const here = this.timeline.find(seq);
    if (here) return here;
    if (!this.quotes.has(seq) && this.quotes.size < 500) {
      this.quotes.set(seq, undefined);
      this.chat.client.history(this.id, { afterSeq: seq - 1, limit: 1 }).then((page) => {
        this.quotes.set(seq, page.messages[0]?.seq === seq ? page.messages[0] : null);
        this.update();
      }, () => this.quotes.delete(seq)); // not now: the next look asks again
    }
    return this.quotes.get(seq);
  }

  // ---------------------------------------------------------------- scrolling

  #anchor() {
    const top = this.scroller.getBoundingClientRect().top;
    for (const row of this.list.children) {
      const box = row.getBoundingClientRect();
      if (box.bottom > top && row.dataset.key && !["begin", "loading", "error"].includes(row.dataset.key)) return { key: row.dataset.key, offset: box.top - top };
    }
    return null;
  }

  #restore({ key, offset }) {
    const row = this.rows.get(key)?.element;
    if (!row?.isConnected) return;
    this.scroller.scrollTop += row.getBoundingClientRect().top - this.scroller.getBoundingClientRect().top - offset;
  }

  #jumpToEnd() { this.scroller.scrollTop = this.scroller.scrollHeight; this.#tellRead(); }

  /** Go to the newest message. */
  async toEnd() {
    const { timeline } = this;
    if (timeline.hasNewer) await timeline.loadNewest();
    timeline.missed = 0;
    this.isAtEnd = true;
    this.render();
  }

  retry() { return this.timeline.isLoaded ? this.timeline.loadOlder() : this.timeline.loadNewest(); }

  #scrolled() {
    const { scroller, timeline } = this;
    const below = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    this.isAtEnd = below < BOTTOM_PX && !timeline.hasNewer;
    if (this.isAtEnd) timeline.missed = 0;
    this.#fill();
    this.#showNewest();
    this.#tellRead();
  }

  /** Fetch the next page where the edge is near. */
  #fill() {
    const { scroller, timeline } = this;
    if (!timeline.isLoaded || timeline.isLoading || timeline.error) return;
    if (scroller.scrollTop < NEAR_PX && timeline.hasOlder) timeline.loadOlder();
    else if (scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_PX && timeline.hasNewer) timeline.loadNewer();
  }

  #showNewest() {
    const { missed } = this.timeline;
    this.newest.hidden = this.isAtEnd;
    this.newest.firstChild.textContent = missed ? t("newCount", { count: missed }) : "";
  }

  /** Tell up to where the user has seen the conversation. */
  #tellRead() {
    if (document.visibilityState !== "visible" || !document.hasFocus()) return;
    const bottom = this.scroller.getBoundingClientRect().bottom + 4;
    for (const row of [...this.list.children].reverse()) {
      const seq = Number(row.dataset.seq);
      if (seq && row.getBoundingClientRect().bottom <= bottom) return this.actions.onRead(seq);
    }
  }
  tellRead() { this.#tellRead(); }

  /** Show one message, wherever it is, for a moment in another colour. */
  async reveal(seq) {
    await this.timeline.loadAround(seq);
    this.isAtEnd = false;
    this.render();
    const row = this.list.querySelector(`[data-seq="${Number(seq)}"]`);
    if (!row) return;
    row.scrollIntoView({ block: "center" });
    row.classList.add("row-revealed");
    row.addEventListener("animationend", () => row.classList.remove("row-revealed"), { once: true });
    row.focus({ preventScroll: true });
  }

  // ---------------------------------------------------------------- keyboard

  focusLast() { [...this.list.querySelectorAll(".row[data-seq]:not([data-seq=''])")].at(-1)?.focus(); }

  #key(event) {
    const rows = [...this.list.querySelectorAll(".row")];
    const at = rows.indexOf(event.target.closest(".row"));
    if (at < 0) return;
    const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      if (to >= rows.length) return this.actions.onLeave();
      rows[Math.max(0, to)].focus();
    } else if ((event.key === "Enter" || event.key === " ") && event.target === rows[at]) {
      event.preventDefault();
      const act = rows[at].querySelector(".picture-frame, .file, .bubble-more");
      (rows[at].querySelector(".bubble-more") ?? act)?.click();
    }
  }
}
