/** Mentions: completing a name behind an @, finding out who is meant, and marking the names in a text. */
import { h } from "/app/dom.js";
import { t } from "/app/i18n.js";
import { avatar } from "/app/text.js";

export const ALL = "@all"; // the protocol's word for everybody
const SHOWN = 8;
const BEFORE_CARET = /(^|[\s(（，。,.:;!?])@([^\s@]{0,40})$/u;

/** The words that mean everybody, in each language, so that all readers see them marked. */
const allWords = () => [...new Set([t("everyone"), "all", "所有人"])];

/** The names by which this user may be meant in a text, the longest first. */
function wordsFor(chat, id) {
  if (id === ALL) return allWords();
  return [...new Set([chat.name(id), chat.people.get(id)?.nickname, id].filter(Boolean))].sort((a, b) => b.length - a.length);
}

const isWordEnd = (text, at) => at >= text.length || !/[\p{L}\p{N}_]/u.test(text[at]) || /\p{Script=Han}/u.test(text[at]);

/** Who of these is named in a text. @param {string[]} ids @returns {string[]} */
export function mentionedIn(chat, text, ids) {
  return ids.filter((id) => wordsFor(chat, id).some((word) => {
    for (let at = text.indexOf(`@${word}`); at >= 0; at = text.indexOf(`@${word}`, at + 1)) if (isWordEnd(text, at + 1 + word.length)) return true;
    return false;
  }));
}

/** Whether a message is meant for the user. */
export const isForMe = (chat, message) => message.from !== chat.me && Array.isArray(message.mentions) && (message.mentions.includes(chat.me) || message.mentions.includes(ALL));

/**
 * Cut a text at the names that it mentions.
 * @param {string[]} mentions as the message has them @param {(text: string) => Array} plain what to make of the rest
 */
export function markMentions(chat, text, mentions, plain) {
  const words = mentions.slice(0, 50).flatMap((id) => wordsFor(chat, id).map((word) => ({ id, word: `@${word}` }))).sort((a, b) => b.word.length - a.word.length);
  const nodes = [];
  let from = 0;
  for (let at = text.indexOf("@"); at >= 0; at = text.indexOf("@", at + 1)) {
    const hit = words.find(({ word }) => text.startsWith(word, at) && isWordEnd(text, at + word.length));
    if (!hit) continue;
    if (at > from) nodes.push(plain(text.slice(from, at)));
    nodes.push(h("span", { class: `mention ${hit.id === chat.me || hit.id === ALL ? "mention-me" : ""}` }, hit.word));
    from = at + hit.word.length;
    at = from - 1;
  }
  nodes.push(plain(text.slice(from)));
  return nodes;
}

/** The list of names above the field of a group. */
export class Completion {
  /** @param {import("/app/chat.js").Chat} chat @param {string} groupId @param {HTMLTextAreaElement} field */
  constructor(chat, groupId, field) {
    Object.assign(this, { chat, groupId, field });
    this.at = 0;
    this.options = [];
    this.isWaiting = false;
    this.element = h("ul", { class: "mention-list", role: "listbox", id: "mention-list", "aria-label": t("mention"), hidden: true });
    field.setAttribute("aria-controls", "mention-list");
    field.setAttribute("aria-autocomplete", "list");
  }

  get isOpen() { return !this.element.hidden; }

  /** Look at what stands before the caret. */
  update() {
    const before = this.field.value.slice(0, this.field.selectionStart);
    const found = BEFORE_CARET.exec(before);
    this.isWaiting = false;
    if (!found) return this.close();
    const query = found[2].toLocaleLowerCase();
    this.begin = before.length - found[2].length - 1;
    const { chat, groupId } = this;
    const known = chat.groups.members(groupId);
    this.isWaiting = known === null; // see `arrived`
    const members = (known ?? []).filter((one) => one.user_id !== chat.me);
    const people = members.map((one) => ({ id: one.user_id, name: chat.name(one.user_id) })).filter(({ id, name }) => `${name} ${id}`.toLocaleLowerCase().split(/\s+/).some((word) => word.startsWith(query)) || name.toLocaleLowerCase().includes(query));
    const all = chat.groups.isInCharge(groupId) && allWords().some((word) => word.toLocaleLowerCase().startsWith(query)) ? [{ id: ALL, name: t("everyone") }] : [];
    this.options = [...all, ...people].slice(0, SHOWN);
    this.at = 0;
    if (!this.options.length) return this.close();
    this.#render();
  }

  /** The members may be here now: whoever has typed the @ before them waits for the list. */
  arrived() { if (this.isWaiting && document.activeElement === this.field) this.update(); }

  #render() {
    this.element.hidden = false;
    this.field.setAttribute("aria-expanded", "true");
    this.element.replaceChildren(...this.options.map(({ id, name }, index) => h("li", { class: `mention-option ${index === this.at ? "is-at" : ""}`, role: "option", id: `mention-${index}`, "aria-selected": String(index === this.at),
      onpointerdown: (event) => { event.preventDefault(); this.at = index; this.take(); } },
    avatar(id, name, "avatar-small"), h("span", { class: "list-name", dir: "auto" }, name), h("span", { class: "list-last" }, id === ALL ? t("everyoneHint") : `@${id}`))));
    this.field.setAttribute("aria-activedescendant", `mention-${this.at}`);
  }

  /** @returns {boolean} the key was this list's */
  key(event) {
    if (!this.isOpen) return false;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { this.at = (this.at + step + this.options.length) % this.options.length; this.#render(); }
    else if (event.key === "Enter" || event.key === "Tab") this.take();
    else if (event.key === "Escape") { event.stopPropagation(); this.close(); }
    else return false;
    event.preventDefault();
    return true;
  }

  take() {
    const { name } = this.options[this.at];
    this.field.setRangeText(`@${name} `, this.begin, this.field.selectionStart, "end");
    this.close();
    this.field.dispatchEvent(new Event("input"));
  }

  close() {
    this.element.hidden = true;
    this.field.removeAttribute("aria-activedescendant");
    this.field.setAttribute("aria-expanded", "false");
  }
}
