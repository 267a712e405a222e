/** The field to write in: Enter sends, Shift Enter makes a line; files by button, drop or paste; emoji; answers; edits. */
import { h, icon, iconButton } from "/app/dom.js";
import { showEmoji } from "/app/emoji.js";
import { t } from "/app/i18n.js";
import { Completion, ALL, mentionedIn } from "/app/mentions.js";
import { attempt } from "/app/dialog.js";
import { summary } from "/app/text.js";

const MAX_LENGTH = 20_000;

export class Composer {
  /** @param {import("/app/chat.js").Chat} chat @param {string} id @param {{onSent: () => void, onUp: () => void}} actions */
  constructor(chat, id, actions) {
    Object.assign(this, { chat, id, actions });
    this.editing = null;
    const name = chat.title(chat.conversation(id));
    this.field = h("textarea", { class: "composer-field", rows: 1, maxlength: MAX_LENGTH, placeholder: t("message"), "aria-label": t("messageTo", { name }), dir: "auto", enterkeyhint: "send",
      oninput: () => this.#typed(), onkeydown: (event) => this.#key(event), onpaste: (event) => this.#paste(event) });
    this.field.value = chat.drafts.get(id) ?? "";
    this.picker = h("input", { type: "file", multiple: true, hidden: true, "aria-hidden": "true", tabIndex: -1, onchange: () => { chat.upload(id, this.picker.files); this.picker.value = ""; actions.onSent(); } });
    const emoji = iconButton("emoji", t("emoji"), () => showEmoji(emoji, (one) => this.#insert(one)), { "aria-haspopup": "dialog", "aria-expanded": "false" });
    this.sendButton = h("button", { type: "button", class: "send-button", "aria-label": t("send"), title: t("send"), onclick: () => this.send() }, icon("send"));
    this.context = h("div", { class: "composer-context", hidden: true });
    this.groupId = id.startsWith("g:") ? id.slice(2) : null;
    this.completion = this.groupId ? new Completion(chat, this.groupId, this.field) : null;
    if (this.groupId) chat.groups.members(this.groupId); // so that they are here when somebody is mentioned
    this.field.addEventListener("blur", () => this.completion?.close());
    this.element = h("div", { class: "composer" }, this.completion?.element, this.context,
      h("div", { class: "composer-row" }, iconButton("attach", t("attach"), () => this.picker.click()), this.picker, this.field, emoji, this.sendButton));
    this.#showContext();
    this.#size();
  }

  focus() { this.field.focus(); }

  #typed() {
    if (!this.editing) {
      this.chat.drafts.set(this.id, this.field.value);
      this.chat.told(this.id, this.field.value.length > 0);
    }
    this.completion?.update();
    this.#size();
  }

  #size() {
    this.sendButton.disabled = !this.field.value.trim();
    if (CSS.supports("field-sizing", "content")) return;
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, 200)}px`;
  }

  #key(event) {
    if (event.isComposing) return; // an input method is at work: its Enter is not ours
    if (this.completion?.key(event)) return;
    if (event.key === "Enter" && !event.shiftKey && !event.altKey) { event.preventDefault(); this.send(); }
    else if (event.key === "Escape" && (this.editing || this.chat.replies.get(this.id))) { event.preventDefault(); event.stopPropagation(); this.cancel(); }
    else if (event.key === "ArrowUp" && !this.field.value) { event.preventDefault(); this.actions.onUp(); }
  }

  #paste(event) {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    this.chat.upload(this.id, files);
    this.actions.onSent();
  }

  #insert(text) {
    this.field.setRangeText(text, this.field.selectionStart, this.field.selectionEnd, "end");
    this.#typed();
  }

  send() {
    const text = this.field.value.trim();
    if (!text) return;
    if (this.editing) {
      const { message } = this.editing;
      if (text !== message.body) attempt(this.chat.client.edit(this.id, message.seq, text));
    } else {
      this.chat.send(this.id, text, this.chat.replies.get(this.id)?.seq, this.#mentions(text));
    }
    this.field.value = "";
    this.chat.drafts.delete(this.id);
    this.cancel();
    this.actions.onSent();
  }

  /** Who is named in the text: members of the group, and everybody where the user may say so. */
  #mentions(text) {
    const { chat, groupId } = this;
    if (!groupId || !text.includes("@")) return [];
    const ids = (chat.groups.members(groupId) ?? []).map((one) => one.user_id).filter((id) => id !== chat.me);
    return mentionedIn(chat, text, chat.groups.isInCharge(groupId) ? [ALL, ...ids] : ids).slice(0, 500);
  }

  /** Answer a message. */
  reply(message) {
    if (this.editing) this.cancel();
    this.chat.replies.set(this.id, message);
    this.#showContext();
    this.focus();
  }

  /** Change a message of one's own. */
  edit(message) {
    this.editing = { message };
    this.field.value = message.body;
    this.#showContext();
    this.#size();
    this.focus();
  }

  cancel() {
    if (this.editing) this.field.value = this.chat.drafts.get(this.id) ?? "";
    this.editing = null;
    this.chat.replies.delete(this.id);
    this.#showContext();
    this.#size();
    this.focus();
  }

  #showContext() {
    const answered = this.chat.replies.get(this.id);
    const message = this.editing?.message ?? answered;
    this.context.hidden = !message;
    if (!message) return;
    const name = message.from === this.chat.me ? t("you") : this.chat.name(message.from);
    this.context.replaceChildren(icon(this.editing ? "compose" : "reply"),
      h("div", { class: "composer-context-text" }, h("strong", {}, this.editing ? t("editing") : t("replyingTo", { name })), h("span", {}, summary(message, this.chat))),
      iconButton("close", t("cancel"), () => this.cancel()));
  }
}
