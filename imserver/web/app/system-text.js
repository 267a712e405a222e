/** The server's own messages in words: what has happened to a group. */
import { dateTime, entryOf, nameList, t } from "/app/i18n.js";

const JOIN = { open: "joinOpen", approval: "joinApproval", invite: "joinInvite" };
const ROLE = { owner: "sysOwner", admin: "sysAdmin", member: "sysMember" };
const quoted = (text) => (typeof text === "string" ? text.slice(0, 200) : "");

/** Whether the server says this. A user, too, may send the type `system`: that is a message of theirs like any other. @param {{type: string, from: string}} message */
export const isServers = ({ type, from }) => type === "system" && from === "";

/** @param {import("/app/chat.js").Chat} chat @param {any} body as the plugin group writes it @returns {string} */
export function systemText(chat, body) {
  if (typeof body === "string") return body;
  const who = typeof body?.by === "string" && body.by ? chat.called(body.by) : t("somebody");
  const ids = Array.isArray(body?.user_ids) ? body.user_ids.filter((id) => typeof id === "string") : [];
  const others = ids.filter((id) => id !== body.by);
  const names = nameList(others.map((id) => chat.called(id, true)));
  switch (body?.event) {
    case "created": return others.length ? t("sysCreatedWith", { who, name: quoted(body.name), names }) : t("sysCreated", { who, name: quoted(body.name) });
    case "joined": return others.length ? t("sysAdded", { who, names }) : t("sysJoined", { who });
    case "left": return t("sysLeft", { who });
    case "removed": return t("sysRemoved", { who, names });
    case "dismissed": return t("sysDismissed", { who });
    case "role": return t(entryOf(ROLE, body.role) ?? "sysUnknown", { who, names });
    case "muted": return body.muted_until ? t("sysMuted", { who, names, time: dateTime(body.muted_until) }) : t("sysUnmuted", { who, names });
    case "updated": return updated(who, body);
  }
  return typeof body?.text === "string" ? body.text : t("sysUnknown");
}

function updated(who, body) {
  const parts = [];
  if (body.name !== undefined) parts.push(t("sysName", { who, name: quoted(body.name) }));
  if (body.announcement !== undefined) parts.push(body.announcement ? t("sysAnnouncement", { who, text: quoted(body.announcement) }) : t("sysNoAnnouncement", { who }));
  if (body.join !== undefined) parts.push(t("sysJoinMode", { who, mode: t(entryOf(JOIN, body.join) ?? "sysUnknown") }));
  if (body.muted !== undefined) parts.push(t(body.muted ? "sysAllMuted" : "sysAllUnmuted", { who }));
  if (body.avatar !== undefined) parts.push(t("sysAvatar", { who }));
  if (body.history !== undefined) parts.push(t(body.history === "all" ? "sysHistoryAll" : "sysHistoryJoined", { who }));
  return parts.join(" ") || t("sysUnknown");
}
