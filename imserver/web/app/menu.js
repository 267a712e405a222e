/** Menus that open at a button or at a point: arrow keys, Home, End, Escape, a click elsewhere. */
import { h, icon } from "/app/dom.js";

let openMenu = null;

/** @param {HTMLElement} anchor gets the focus back @param {{label: string, icon?: string, isChecked?: boolean, isDanger?: boolean, run: () => void}[]} entries */
export function showMenu(anchor, entries, { label, point } = {}) {
  closeMenu();
  const items = entries.filter(Boolean).map((entry) => h("button", {
    type: "button", class: `menu-item ${entry.isDanger ? "danger" : ""}`, tabIndex: -1,
    role: entry.isChecked === undefined ? "menuitem" : "menuitemcheckbox", "aria-checked": entry.isChecked === undefined ? undefined : String(entry.isChecked),
    onclick: () => { close(); entry.run(); },
  }, icon(entry.icon ?? "check", entry.icon ? "" : entry.isChecked ? "" : "invisible"), h("span", {}, entry.label), entry.note ? h("span", { class: "menu-note" }, entry.note) : null));
  const menu = h("div", { class: "menu", role: "menu", "aria-label": label, onkeydown: (event) => {
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) items.at(to % items.length).focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  } }, items);
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
  items[0]?.focus();
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
