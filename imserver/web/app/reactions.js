/** Reactions below a message: how many chose which emoji, one's own in colour; a click joins in, or takes it back. */
import { attempt } from "/app/dialog.js";
import { h } from "/app/dom.js";
import { nameList, t } from "/app/i18n.js";

const SHOWN = 20;
const EMOJI_LENGTH = 32; // what the server takes; nothing longer is shown

/** @param {import("/app/chat.js").Chat} chat @param {import("/imserver.js").Message} message */
export function reactionChips(chat, message) {
  const entries = Object.entries(message.reactions ?? {}).filter(([, who]) => Array.isArray(who) && who.length);
  if (!entries.length) return null;
  return h("span", { class: "reactions" }, entries.slice(0, SHOWN).map(([emoji, who]) => {
    const isOwn = who.includes(chat.me);
    const shown = emoji.slice(0, EMOJI_LENGTH);
    const names = nameList(who.map((id) => chat.called(id)), 10);
    return h("button", { type: "button", class: `reaction ${isOwn ? "is-own" : ""}`, "aria-pressed": String(isOwn), title: names, dataset: { emoji: shown },
      "aria-label": t("reactionBy", { emoji: shown, names }), disabled: !chat.features.react, onclick: () => toggleReaction(chat, message, emoji) },
    h("span", { class: "reaction-emoji" }, shown), h("span", { class: "reaction-count" }, who.length));
  }));
}

/** @param {import("/app/chat.js").Chat} chat @param {import("/imserver.js").Message} message */
export function toggleReaction(chat, message, emoji) {
  const remove = message.reactions?.[emoji]?.includes(chat.me) ?? false;
  return attempt(chat.client.react(message.conversation_id, message.seq, emoji, { remove }));
}
