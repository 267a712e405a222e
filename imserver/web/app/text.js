/** What messages look like as text. Everything here makes text nodes, and links to http and https alone. */
import { h } from "/app/dom.js";
import { t } from "/app/i18n.js";
import { isServers, systemText } from "/app/system-text.js";

const URL_IN_TEXT = /\bhttps?:\/\/[^\s<>"'`]+/giu;
const TRAILING = /[.,;:!?。，；：！？）)\]}»”’]+$/u;

/** Text with its links. @returns {(Node|string)[]} */
export function linkify(text) {
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(URL_IN_TEXT)) {
    let address = found[0].replace(TRAILING, "");
    if (found[0].startsWith(`${address})`) && address.includes("(")) address += ")"; // an address that ends in (b)
    const url = URL.canParse(address) ? new URL(address) : null;
    if (!url || (url.protocol !== "https:" && url.protocol !== "http:")) continue;
    nodes.push(text.slice(at, found.index), h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, address));
    at = found.index + address.length;
  }
  nodes.push(text.slice(at));
  return nodes;
}

/** Who has taken a message back, as far as is known. */
function recalledText(chat, { from, recalled_by: by, conversation_id: id }) {
  if (from === chat.me && (!by || by === from)) return t("recalledByYou");
  if (by && by !== from) return t(by === chat.me ? "recalledOfByYou" : "recalledOf", { who: chat.name(by), name: chat.called(from, true) });
  return !by && id.startsWith("g:") ? t("recalledFrom", { name: chat.name(from) }) : t("recalledBy", { who: chat.name(from) });
}

/** A message in one line, for lists, quotes and notifications. @param {import("/imserver.js").Message|null} message @param {import("/app/chat.js").Chat} chat */
export function summary(message, chat) {
  if (!message) return "";
  if (message.recalled) return recalledText(chat, message);
  const { type, body } = message;
  if (isServers(message)) return systemText(chat, body);
  if (typeof body === "string") return body.length > 300 ? `${body.slice(0, 300)}…` : body;
  if (["image", "file", "audio", "video"].includes(type)) return fileName(body) ? `${t(type)} · ${fileName(body)}` : t(type);
  if (typeof body?.text === "string") return body.text;
  return t("unknownMessage", { type });
}

/** What a file is called by whoever sent it; "" where that is no name. */
export const fileName = (body) => (typeof body?.name === "string" ? body.name : "");

/** Whether this is a handful of emoji and nothing else: shown larger. */
export const isJumbo = (text) => text.length <= 24 && /^(\p{RI}\p{RI}|\p{Emoji_Presentation}|\p{Extended_Pictographic}|\p{Emoji_Modifier}|\u200d|\ufe0f|\s){1,14}$/u.test(text)
  && /\p{Extended_Pictographic}|\p{RI}/u.test(text);

/** The letters of an avatar. */
export function initials(name) {
  const words = name.split(/[^\p{L}\p{N}\p{Extended_Pictographic}]+/u).filter(Boolean);
  const first = [...(words[0] ?? "?")][0];
  if (/\p{Script=Han}/u.test(first)) return [...words[0]].slice(-2).join("");
  return (first + (words.length > 1 ? [...words.at(-1)][0] : "")).toUpperCase();
}

/** One of eight colours, the same for a name at all times. */
export function colour(id) {
  let hash = 7;
  for (const letter of id) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return hash % 8;
}

export const avatar = (id, name, more = "") =>
  h("span", { class: `avatar ${id.startsWith("g:") ? "avatar-group" : ""} avatar-${colour(id)} ${more}`, "aria-hidden": "true" }, initials(name));

const [SEND, REGISTER] = [2001, 1001];
/** Refusals that have words of their own, by the protocol's names: `refused_` and the name. */
const REFUSALS = new Set(["recall_window", "group_full", "group_limit", "admin_limit", "already_member", "invite_only", "not_a_member", "muted", "group_muted", "dismissed",
  "already_friends", "friend_limit", "request_limit", "block_limit"]);

/** What to tell a person about an error. */
export function explain(error) {
  const seconds = Math.max(1, Math.ceil((error.retryAfterMs ?? 1000) / 1000));
  if (error.error === "outbox_full") return t("err_outbox_full");
  if (error.name === "QuotaExceededError") return t("err_storage");
  if (REFUSALS.has(error.error)) return t(`refused_${error.error}`);
  switch (error.code) {
    case 0: return t("err_connection");
    case 401: return t("err_unauthenticated");
    case 403: return t(error.command === undefined || error.command === SEND ? "err_forbidden" : "err_denied");
    case 409: return error.command === REGISTER ? t("err_conflict") : t("err_other", { message: error.message });
    case 413: return t("err_too_large");
    case 429: return t("err_rate_limited", { seconds });
    case 503: return t("err_unavailable");
    case 400:
      if (error.field === "user_id") return t("err_userId");
      if (error.field === "password") return t("err_password");
  }
  return t("err_other", { message: error.message });
}
