/** Menus that open at a button or at a point: arrow keys, Home, End, Escape, a click elsewhere. */
import { h, icon } from "/app/dom.js";
import { t } from "/app/i18n.js";

let openMenu = null;

/**
 * @param {HTMLElement} anchor gets the focus back
 * @param {({label: string, icon?: string, isChecked?: boolean, isDanger?: boolean, note?: string, run: () => void}|{emojis: {emoji: string, isOn?: boolean}[], run: (emoji: string) => void, more: () => void})[]} entries
 */
export function showMenu(anchor, entries, { label, point } = {}) {
  closeMenu();
  const rows = entries.filter(Boolean).map((entry) => (entry.emojis ? emojiRow(entry, (task) => { close(); task(); }) : h("button", {
    type: "button", class: `menu-item ${entry.isDanger ? "danger" : ""}`, tabIndex: -1,
    role: entry.isChecked === undefined ? "menuitem" : "menuitemcheckbox", "aria-checked": entry.isChecked === undefined ? undefined : String(entry.isChecked),
    onclick: () => { close(); entry.run(); },
  }, icon(entry.icon ?? "check", entry.icon ? "" : entry.isChecked ? "" : "invisible"), h("span", {}, entry.label), entry.note ? h("span", { class: "menu-note" }, entry.note) : null)));
  const menu = h("div", { class: "menu", role: "menu", "aria-label": label, onkeydown: (event) => {
    const at = items.indexOf(document.activeElement);
    const inRow = items[at]?.closest(".menu-emojis");
    const beside = inRow ? { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: inRow.childElementCount, ArrowUp: -1 } : { ArrowDown: at + 1, ArrowUp: at - 1 };
    const to = { ...beside, Home: 0, End: items.length - 1 }[event.key];
    const next = to === undefined ? null : items.at(to % items.length);
    const row = inRow ? null : next?.closest(".menu-emojis"); // it is entered at its first
    if (next) (row?.querySelector("button") ?? next).focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  } }, rows);
  const items = [...menu.querySelectorAll("button")];
  const outside = (event) => { if (!menu.contains(event.target)) close(false); };
  const close = (backToAnchor = true) => {
    if (!menu.isConnected) return;
    menu.remove();
    document.removeEventListener("pointerdown", outside, true);
    anchor.setAttribute("aria-expanded", "false");
    openMenu = null;
    if (backToAnchor) anchor.focus();
  };
  document.body.append(menu);
  place(menu, point ?? anchor.getBoundingClientRect());
  document.addEventListener("pointerdown", outside, true);
  anchor.setAttribute("aria-expanded", "true");
  openMenu = close;
  (items.find((item) => item.className.includes("menu-item")) ?? items[0])?.focus();
}

/** Emoji side by side, and a way to all the others. */
function emojiRow({ emojis, run, more }, leave) {
  return h("div", { class: "menu-emojis", role: "group", "aria-label": t("react") },
    emojis.map(({ emoji, isOn }) => h("button", { type: "button", class: `menu-emoji ${isOn ? "is-own" : ""}`, role: "menuitemcheckbox", "aria-checked": String(Boolean(isOn)), "aria-label": `${t("react")} ${emoji}`, tabIndex: -1, onclick: () => leave(() => run(emoji)) }, emoji)),
    h("button", { type: "button", class: "menu-emoji", role: "menuitem", "aria-label": t("moreEmoji"), title: t("moreEmoji"), tabIndex: -1, onclick: () => leave(more) }, icon("plus")));
}

export function closeMenu() { openMenu?.(false); }

/** Put a floating box at a rectangle, inside of the window. */
export function place(box, { left, right = left, top, bottom = top }) {
  const { width, height } = box.getBoundingClientRect();
  const x = left + width > innerWidth - 8 ? right - width : left;
  const y = bottom + height + 6 > innerHeight ? top - height - 6 : bottom + 6;
  box.style.left = `${Math.max(8, Math.min(x, innerWidth - width - 8))}px`;
  box.style.top = `${Math.max(8, Math.min(y, innerHeight - height - 8))}px`;
}
