// Elements without HTML in strings: what a server says of itself can be text only.

/** An element. `props`: class, text, on… (listeners), true/false attributes, others as they are. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== undefined && child !== null && child !== false) node.append(child);
  return node;
}

/** Text with `code` in backticks. */
export function prose(text) {
  return String(text)
    .split(/(`[^`]+`)/)
    .filter(Boolean)
    .map((part) => (/^`.+`$/.test(part) ? el("code", { text: part.slice(1, -1) }) : part));
}

/** A button that copies a text, and says so. */
export function copyButton(getText, label = "Copy") {
  const button = el("button", { class: "small", type: "button", text: label });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(getText());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it and copy"; // no clipboard without TLS
    }
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}
