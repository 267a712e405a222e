/** A simple emoji picker: a grid by arrow keys. */
import { h } from "/app/dom.js";
import { place } from "/app/menu.js";
import { t } from "/app/i18n.js";

const EMOJI = [..."😀😄😁😂🤣😊😇🙂😉😍🥰😘😋😜🤪🤗🤔🤨😐🙄😏😴😷🤒🤯🥳😎🤓😕😟😮😳🥺😢😭😤😡🤬💀💩👻🤖👋🤚✋👌🤞🤟🤙👈👉👆👇👍👎✊👏🙌🤝🙏💪🧠👀💋💯🔥✨🎉🎂🎁🏆🚀🌈🌞🌙🌍🌸🍀🍎🍕🍜🍚🍵🍺🥂🧧🐶🐱🐼🐧🐝💡📌📎📷🎵💻🔒🔑⏰💔💙💚💛💜🖤"];
const COLUMNS = 8;
export const QUICK = ["👍", "😂", "😮", "😢", "🙏", "🎉"];

/** @param {HTMLElement} anchor @param {(emoji: string) => void} onPick */
export function showEmoji(anchor, onPick) {
  const cells = EMOJI.map((emoji, index) => h("button", { type: "button", class: "emoji-cell", tabIndex: index ? -1 : 0, "aria-label": emoji, onclick: () => { onPick(emoji); } }, emoji));
  const box = h("div", { class: "emoji-picker", role: "dialog", "aria-label": t("emoji"), onkeydown: (event) => {
    const at = cells.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + COLUMNS, ArrowUp: at - COLUMNS }[event.key];
    if (to !== undefined) { cells[Math.max(0, Math.min(cells.length - 1, to))].focus(); event.preventDefault(); }
    if (event.key === "Escape" || event.key === "Tab") { event.preventDefault(); event.stopPropagation(); close(); }
  } }, cells);
  const outside = (event) => { if (!box.contains(event.target) && !anchor.contains(event.target)) close(false); };
  function close(backToAnchor = true) {
    box.remove();
    document.removeEventListener("pointerdown", outside, true);
    anchor.setAttribute("aria-expanded", "false");
    if (backToAnchor) anchor.focus();
  }
  document.body.append(box);
  place(box, anchor.getBoundingClientRect());
  document.addEventListener("pointerdown", outside, true);
  anchor.setAttribute("aria-expanded", "true");
  cells[0].focus();
  return close;
}
