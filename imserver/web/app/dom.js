/** Making elements. Text is always a text node: nothing here, or anywhere in this client, parses HTML. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} tag @param {Record<string, any>} [props] `class`, `on…` handlers, `dataset`, properties or attributes
 * @param {...(Node|string|number|null|undefined|false|Array)} children
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (["value", "disabled", "checked", "hidden", "textContent", "tabIndex"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Give an element these children, in this order, moving as few nodes as may be. */
export function reconcile(parent, nodes) {
  let at = parent.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const paths = {
  send: "M3.4 20.4 21 12 3.4 3.6 3.4 10.1 15 12 3.4 13.9z",
  attach: "M16.5 6.5v9.8a4.5 4.5 0 0 1-9 0V5.8a3 3 0 0 1 6 0v9.7a1.5 1.5 0 0 1-3 0V7",
  emoji: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM8.5 14.2c.9 1.3 2.1 2 3.5 2s2.6-.7 3.5-2M9 9.6v.2M15 9.6v.2",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.3 15.3 20 20",
  menu: "M4 7h16M4 12h16M4 17h16",
  more: "M5.5 12v.01M12 12v.01M18.5 12v.01",
  back: "M14.5 5.5 8 12l6.5 6.5",
  close: "M6 6l12 12M18 6 6 18",
  down: "M6 9.5l6 6 6-6",
  file: "M7 3.5h6.5L18 8v12.5H7zM13.5 3.5V8H18",
  reply: "M9.5 6 4 11.5 9.5 17M4.5 11.5h9c3.5 0 6 2 6 6.5",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M4.5 12.5 9.5 17.5 19.5 6.5",
  checks: "M1.8 12.8l4.7 4.7L15.8 6.8M11.2 16.2l1.5 1.3L22.3 6.8",
  clock: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM12 7.5V12l3 2",
  alert: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM12 7.8v5M12 16v.01",
  eye: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 14.8a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6z",
  retry: "M19 12a7 7 0 1 1-2.1-5M19 4v4h-4",
  compose: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 13h8.4L17 7",
  smile: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM8.5 14.2c.9 1.3 2.1 2 3.5 2s2.6-.7 3.5-2M9 9.6v.2M15 9.6v.2",
  logout: "M10 4H5v16h5M14 8l4 4-4 4M18 12H9",
  plus: "M12 5v14M5 12h14",
  info: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM12 11v5M12 7.8v.2",
  pin: "M9 4h6l-1 6 3.5 3.5h-11L10 10zM12 13.5V20",
  bell: "M6.5 16.5V11a5.5 5.5 0 0 1 11 0v5.5l1.5 1.5h-14zM10.3 20.5h3.4",
  bellOff: "M6.5 16.5V11c0-.9.2-1.7.6-2.4M9.5 6.1A5.5 5.5 0 0 1 17.5 11v3.4M15.5 18H5l1.5-1.5M10.3 20.5h3.4M4 4l16 16",
  personPlus: "M10 11.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM3.5 19.5c.6-3.3 3-5 6.5-5s5.9 1.7 6.5 5M19 8v6M16 11h6",
  person: "M12 11.5a3.8 3.8 0 1 0 0-7.6 3.8 3.8 0 0 0 0 7.6zM4.5 20c.7-3.6 3.4-5.4 7.5-5.4s6.8 1.8 7.5 5.4",
  block: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM6 6l12 12",
  crown: "M4 18h16M4.5 15 3.5 7.5l5 3.5L12 5l3.5 6 5-3.5-1 7.5z",
  enter: "M14 4h5v16h-5M10 8l4 4-4 4M14 12H3",
  chat: "M4 5h16v11H9.5L5 20v-4H4z",
  megaphone: "M4 10v4h3l8 4V6l-8 4zM18 9.5a4 4 0 0 1 0 5",
  users: "M9 11.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 19.5c.6-3.3 3-5 6.5-5s5.9 1.7 6.5 5M16 4.9a3.5 3.5 0 0 1 0 6.2M18 14.9c2 .7 3.2 2.2 3.6 4.6",
};

/** A line icon. It says nothing to a screen reader: its button has the label. */
export function icon(name, extra = "") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon icon-${name} ${extra}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", paths[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon alone. */
export const iconButton = (name, label, onclick, more = {}) =>
  h("button", { type: "button", "aria-label": label, title: label, onclick, ...more, class: `icon-button ${more.class ?? ""}` }, icon(name));

/** Tell a screen reader something, once. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

export function clearToasts() { document.getElementById("toasts").replaceChildren(); }

/** A short notice at the edge of the window. */
export function toast(text, { isError = true } = {}) {
  const box = document.getElementById("toasts");
  while (box.childElementCount >= 3) box.firstChild.remove();
  const note = h("div", { class: `toast ${isError ? "toast-error" : ""}` }, text);
  box.append(note);
  setTimeout(() => note.remove(), 6000);
}
