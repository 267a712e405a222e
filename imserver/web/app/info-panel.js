/** The side of a conversation that tells what it is: a person, or a group with its members. */
import { h, iconButton } from "/app/dom.js";
import { oncePerFrame } from "/app/emitter.js";
import { groupInfo } from "/app/group-info.js";
import { t } from "/app/i18n.js";
import { personInfo } from "/app/person-info.js";

export class InfoPanel {
  /** @param {import("/app/chat.js").Chat} chat @param {string} id @param {{onOpen: (id: string) => void, onDeleted: (id: string) => void, onClose: () => void}} actions */
  constructor(chat, id, actions) {
    Object.assign(this, { chat, id, actions });
    this.button = null; // the one that opens it
    this.shown = { members: 50, query: "" };
    this.body = h("div", { class: "panel-body" });
    const title = t(id.startsWith("g:") ? "groupInfo" : "personInfo");
    this.element = h("aside", { class: "panel", hidden: true, "aria-label": title, onkeydown: (event) => {
      if (event.key === "Escape" && !event.isComposing) { event.stopPropagation(); this.toggle(); }
    } }, h("header", { class: "panel-head" }, h("h2", {}, title), iconButton("close", t("close"), () => this.toggle())), this.body);
    this.update = oncePerFrame(() => this.render());
    this.off = ["group", "friends", "people", "list", "features"].map((name) => chat.on(name, () => this.update()));
  }

  get isOpen() { return !this.element.hidden; }

  close() { for (const off of this.off) off(); }

  toggle() {
    this.element.hidden = this.isOpen;
    this.button?.setAttribute("aria-expanded", String(this.isOpen));
    if (!this.isOpen) return this.actions.onClose();
    if (this.id.startsWith("g:")) this.chat.groups.refresh(this.id.slice(2));
    this.signature = null;
    this.render();
    this.element.querySelector("button").focus();
  }

  /** Build it anew where something that it shows has changed; the focus and the place stay. */
  render() {
    if (!this.isOpen) return;
    const content = (this.id.startsWith("g:") ? groupInfo : personInfo)(this.chat, this.id, { ...this.actions, shown: this.shown, again: () => { this.signature = null; this.render(); } });
    if (content.signature === this.signature) return;
    this.signature = content.signature;
    const { scrollTop } = this.body;
    const key = this.body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const caret = document.activeElement?.selectionStart;
    this.body.replaceChildren(...content.build().flat(Infinity).filter(Boolean));
    this.body.scrollTop = scrollTop;
    const again = key && this.body.querySelector(`[data-key="${CSS.escape(key)}"]`);
    again?.focus({ preventScroll: true });
    if (again?.type === "search") again.setSelectionRange(caret, caret);
  }
}

/** A switch with its name. */
export const toggleRow = (key, label, isOn, run, { icon = null, isDisabled = false } = {}) =>
  h("button", { type: "button", class: "panel-row", role: "switch", "aria-checked": String(isOn), disabled: isDisabled, dataset: { key }, onclick: run }, icon, h("span", { class: "panel-label" }, label), h("span", { class: "switch", "aria-hidden": "true" }));

/** Something to do. */
export const actionRow = (key, label, icon, run, { isDanger = false } = {}) =>
  h("button", { type: "button", class: `panel-row ${isDanger ? "danger" : ""}`, dataset: { key }, onclick: run }, icon, h("span", { class: "panel-label" }, label));
