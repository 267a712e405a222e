/** Choosing people: one's friends, those one talks to, and everybody whom the search finds. */
import { h, icon } from "/app/dom.js";
import { unlessPressed } from "/app/emitter.js";
import { t } from "/app/i18n.js";
import { avatar, explain } from "/app/text.js";

const WAIT_MS = 250;
const SHOWN = 60;

export class Picker {
  /** @param {import("/app/chat.js").Chat} chat @param {{exclude?: Set<string>, max?: number}} [options] */
  constructor(chat, { exclude = new Set(), max = 499 } = {}) {
    Object.assign(this, { chat, exclude, max });
    /** @type {Set<string>} */ this.picked = new Set();
    this.found = [];
    this.turn = 0;
    this.field = h("input", { type: "search", class: "input", placeholder: t("findPeople"), "aria-label": t("findPeople"), autocomplete: "off", autocapitalize: "none", spellcheck: "false", autofocus: true,
      oninput: () => this.#search(), onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); this.list.querySelector("button")?.click(); } } });
    this.chips = h("div", { class: "chips" });
    this.list = h("ul", { class: "picker-list", "aria-label": t("people") });
    this.element = h("div", { class: "picker" }, this.chips, this.field, this.list);
    this.#render();
  }

  async #search() {
    const query = this.field.value.trim();
    const turn = ++this.turn;
    this.found = [];
    this.note = null;
    this.#render();
    if (!query) return;
    await new Promise((resolve) => { setTimeout(resolve, WAIT_MS); });
    if (turn !== this.turn) return;
    try {
      const { users } = await this.chat.client.searchUsers(query, { limit: 30 });
      if (turn !== this.turn) return;
      for (const user of users) this.chat.people.set(user.user_id, user);
      this.found = users.map((user) => user.user_id);
      this.note = users.length ? null : t("nothingFound", { query });
    } catch (error) {
      this.note = explain(error);
    }
    unlessPressed(() => this.#render());
  }

  #candidates() {
    const { chat } = this;
    const query = this.field.value.trim().toLocaleLowerCase();
    const near = [...chat.friends.sorted().map((one) => one.user_id), ...chat.list().map((one) => one.peer).filter(Boolean)];
    const matching = near.filter((id) => `${chat.name(id)} ${id}`.toLocaleLowerCase().includes(query));
    return [...new Set([...matching, ...this.found])].filter((id) => id !== chat.me && !this.exclude.has(id)).slice(0, SHOWN);
  }

  toggle(id) {
    if (this.picked.has(id)) this.picked.delete(id);
    else if (this.picked.size < this.max) this.picked.add(id);
    this.#render();
  }

  #render() {
    const { chat } = this;
    const focused = document.activeElement?.dataset?.user;
    this.chips.replaceChildren(...[...this.picked].map((id) => h("button", { type: "button", class: "chip", "aria-label": t("unpick", { name: chat.name(id) }), onclick: () => { this.toggle(id); this.field.focus(); } },
      h("span", { dir: "auto" }, chat.name(id)), icon("close"))));
    const rows = this.#candidates().map((id) => h("li", {}, h("button", { type: "button", class: "list-row", role: "checkbox", "aria-checked": String(this.picked.has(id)), dataset: { user: id }, onclick: () => this.toggle(id) },
      avatar(id, chat.name(id), "avatar-small"), h("span", { class: "list-text" }, h("span", { class: "list-name", dir: "auto" }, chat.name(id)), h("span", { class: "list-last" }, `@${id}`)),
      h("span", { class: "tick-box" }, this.picked.has(id) ? icon("check") : null))));
    const note = this.note ?? (rows.length || this.field.value ? null : t("pickerHint"));
    this.list.replaceChildren(...rows, ...(note ? [h("li", { class: "notice" }, note)] : []));
    if (focused) this.list.querySelector(`[data-user="${CSS.escape(focused)}"]`)?.focus();
  }
}
