/** Who has read one's last message in a group. The server does not push that: it is asked for while somebody looks. */
import { openDialog } from "/app/dialog.js";
import { h } from "/app/dom.js";
import { t } from "/app/i18n.js";
import { avatar, explain } from "/app/text.js";

const AGAIN_MS = 3000; // at most so often
const LOOK_MS = 8000; // as long as some have not read it

export class Receipts {
  /** @param {import("/app/chat.js").Chat} chat @param {string} id a group's conversation @param {() => void} onChange */
  constructor(chat, id, onChange) {
    Object.assign(this, { chat, id, onChange });
    this.seq = 0;
    this.answer = null;
    this.askedAt = 0;
    this.timer = setInterval(() => { if (document.visibilityState === "visible" && this.answer?.unread_count) this.#ask(); }, LOOK_MS);
  }

  close() {
    this.isClosed = true;
    clearInterval(this.timer);
    clearTimeout(this.soon);
  }

  /** What is known of this message, which is one's last. @returns {{read: number, of: number}|null} */
  of(seq) {
    if (seq !== this.seq) { this.seq = seq; this.answer = null; this.askedAt = 0; this.look(); }
    const { answer } = this;
    if (!answer) return null;
    const read = answer.read_count ?? answer.read.length;
    return { read, of: read + answer.unread_count };
  }

  /** Somebody may have read it. */
  look() {
    if (!this.seq || !this.chat.features.receipts || (this.answer && !this.answer.unread_count)) return;
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.#ask(), Math.max(50, this.askedAt + AGAIN_MS - Date.now()));
  }

  async #ask() {
    const { seq } = this;
    if (this.isClosed || !seq) return;
    this.askedAt = Date.now();
    try {
      const answer = await this.chat.client.receipts(this.id, seq);
      if (seq !== this.seq || this.isClosed) return;
      this.answer = answer;
      this.onChange();
    } catch (error) {
      if (![0, 403, 404].includes(error.code)) this.chat.emit("problem", error); // gone, or not now
    }
  }
}

/** Who has read a message, and who has not. @param {import("/app/chat.js").Chat} chat @param {import("/imserver.js").Message} message */
export function showReaders(chat, message) {
  const body = h("div", { class: "readers" }, h("p", { class: "notice", role: "status" }, t("loading")));
  openDialog(t("readers"), () => body);
  const row = (id) => h("li", { class: "person-row" }, avatar(id, chat.name(id), "avatar-small"), h("span", { class: "list-name", dir: "auto" }, chat.called(id)));
  const part = (title, ids) => (ids.length ? [h("h3", { class: "results-title" }, title), h("ul", {}, ids.slice(0, 500).map(row))] : []);
  chat.client.receipts(message.conversation_id, message.seq).then(({ read, read_count: count = read.length, unread_count: unread }) => {
    const members = chat.groups.members(message.conversation_id.slice(2)) ?? [];
    const has = new Set([...read, message.from]);
    const rest = count === read.length ? members.filter((one) => !has.has(one.user_id) && one.joined_at <= message.sent_at).map((one) => one.user_id) : [];
    body.replaceChildren(...part(t("readBy", { count }), read), ...part(t("notReadBy", { count: unread }), rest),
      ...(count ? [] : [h("p", { class: "notice" }, t("readByNobody"))]));
  }, (error) => body.replaceChildren(h("p", { class: "notice" }, explain(error))));
}
