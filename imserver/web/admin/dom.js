/** Elements without markup in strings: what users typed can only ever become text. */

/**
 * @param {string} tag
 * @param {Object<string, any>} attributes `class`, `text`, `on` (a map of listeners), or attributes of the element.
 * @param {...(Node|string)} children
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/**
 * A table in a box that scrolls by itself.
 * @param {string[]} heads those that begin with "#" are of numbers.
 * @param {(Node|string|number)[][]} rows
 */
export function table(heads, rows) {
  const classes = heads.map((head) => (head.startsWith("#") ? "number" : null));
  const cell = (tag, content, index) => {
    const made = element(tag, { class: classes[index] });
    made.append(content instanceof Node ? content : String(content));
    return made;
  };
  return element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head, index) => cell("th", head.replace(/^#/, ""), index)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((content, index) => cell("td", content, index)))))));
}

export function card(title, ...children) {
  return element("div", { class: "card" }, element("h2", { text: title }), ...children);
}

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 12.34 -> "12.3", 1234.5 -> "1,235"; what is missing is a dash. */
export function shown(value) {
  if (value === null || value === undefined) return "–";
  return (value >= 100 ? whole : number).format(value);
}

/** Milliseconds since the epoch as local date and time. */
export function moment(ms) {
  return ms ? new Date(ms).toLocaleString() : "–";
}
