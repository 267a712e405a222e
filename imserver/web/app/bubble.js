/** One message as an element. */
import { h, icon, toast } from "/app/dom.js";
import { clock, exactTime, fileSize, t } from "/app/i18n.js";
import { showPicture } from "/app/lightbox.js";
import { isImage } from "/app/media.js";
import { isForMe, markMentions } from "/app/mentions.js";
import { reactionChips } from "/app/reactions.js";
import { isServers } from "/app/system-text.js";
import { avatar, colour, explain, fileName, isJumbo, linkify, summary } from "/app/text.js";

const MAX_TEXT = 20_000; // characters shown of one message; a megabyte in one bubble would stop the page

/**
 * @param {import("/app/chat.js").Chat} chat
 * @param {object} item `{message, status, isFirst, isLast, isGroup, readers?, isGrowing?}`; `message` has no `seq` while it is on its way
 * @param {{onMenu: (item: object, anchor: HTMLElement, point?: object) => void, onQuote: (seq: number) => void, quoteOf: (seq: number) => object|null}} actions
 */
export function bubble(chat, item, actions) {
  const { message, status, isFirst, isLast, isGroup, readers } = item;
  if (isServers(message)) return systemLine(chat, message);
  const isOwn = message.from === chat.me;
  const name = isOwn ? t("you") : chat.name(message.from);
  const jumbo = message.type === "text" && typeof message.body === "string" && !message.recalled && !message.reply_to && isJumbo(message.body);
  const isPicture = message.type === "image" && isImage(message.body?.type) && !message.recalled;
  const more = h("button", { type: "button", class: "bubble-more", tabIndex: -1, "aria-label": t("messageMenu"), title: t("messageMenu"), "aria-haspopup": "menu", onclick: () => actions.onMenu(item, more) }, icon("down"));
  const row = h("div", {
    class: `row ${isOwn ? "row-own" : "row-other"} ${isFirst ? "row-first" : ""} ${isLast ? "row-last" : ""}`, tabIndex: -1, role: "article",
    "aria-label": `${name}, ${clock(message.sent_at)}: ${summary(message, chat)}${status ? `, ${statusText(status)}` : ""}`,
    dataset: { seq: message.seq ?? "" },
    oncontextmenu: (event) => {
      if (event.target.closest("a") || String(getSelection())) return; // the browser's own menu serves better
      event.preventDefault();
      actions.onMenu(item, row, { left: event.clientX, top: event.clientY });
    },
  },
  isGroup && !isOwn ? h("span", { class: "row-avatar" }, isLast ? avatar(message.from, name, "avatar-small") : null) : null,
  h("div", { class: `bubble ${jumbo ? "bubble-jumbo" : ""} ${isPicture ? "bubble-picture" : ""} ${message.recalled ? "bubble-recalled" : ""} ${isForMe(chat, message) ? "bubble-for-me" : ""} ${item.isGrowing ? "bubble-growing" : ""}` },
    isGroup && !isOwn && isFirst && !message.recalled ? h("div", { class: `bubble-name name-${colour(message.from)}` }, name) : null,
    message.reply_to && !message.recalled ? quote(chat, message.reply_to, actions) : null,
    content(chat, message),
    h("span", { class: "bubble-meta" },
      message.edited_at && !message.recalled ? h("span", {}, t("edited")) : null,
      h("time", { datetime: new Date(message.sent_at).toISOString(), title: exactTime(message.sent_at) }, clock(message.sent_at)),
      status ? tick(status) : null)),
  message.seq && !message.recalled ? more : null);
  const chips = message.recalled ? null : reactionChips(chat, message);
  if (chips) row.querySelector(".bubble").append(chips);
  if (readers) row.append(h("button", { type: "button", class: "read-by", onclick: () => actions.onReaders(message) }, readers.read ? t("readByOf", { read: readers.read, of: readers.of }) : t("readByNone", { of: readers.of })));
  if (status === "failed") row.append(failure(chat, item));
  return row;
}

const statusText = (status) => t(`status${status[0].toUpperCase()}${status.slice(1)}`);

function tick(status) {
  const name = { pending: "clock", sent: "check", read: "checks", failed: "alert" }[status];
  return h("span", { class: `tick tick-${status}`, role: "img", "aria-label": statusText(status), title: statusText(status) }, icon(name));
}

function content(chat, message) {
  if (message.recalled) return h("span", { class: "bubble-text" }, summary(message, chat));
  const { type, body } = message;
  if (typeof body === "string") return h("span", { class: "bubble-text", dir: "auto" }, message.mentions?.length ? markMentions(chat, body.slice(0, MAX_TEXT), message.mentions, linkify) : linkify(body.slice(0, MAX_TEXT)), body.length > MAX_TEXT ? "…" : null);
  if (typeof body?.file_id === "string") return type === "image" && isImage(body.type) ? picture(chat, body) : file(chat, body, type);
  return h("span", { class: "bubble-text", dir: "auto" }, summary(message, chat));
}

function picture(chat, body) {
  const name = fileName(body);
  const image = h("img", { class: "picture", alt: name, loading: "lazy", decoding: "async" });
  const frame = h("button", { type: "button", class: "picture-frame", "aria-label": t("openImage", { name }), onclick: () => showPicture(chat.media, body) }, image);
  // The frame has its size before the picture is here, so that nothing jumps.
  const { width, height } = body;
  if (Number.isFinite(width) && width > 0 && Number.isFinite(height) && height > 0) {
    const scale = Math.min(1, 320 / width, 360 / height);
    frame.style.width = `${Math.max(64, Math.round(width * scale))}px`;
    frame.style.aspectRatio = `${width} / ${height}`;
  }
  chat.media.url(body.file_id).then((url) => { image.src = url; }, () => { frame.replaceChildren(h("span", { class: "picture-failed" }, t("imageFailed"))); });
  return frame;
}

function file(chat, body, type) {
  const name = fileName(body) || t(type);
  return h("button", { type: "button", class: "file", "aria-label": t("download", { name }), onclick: () => {
    chat.media.save(body.file_id, name).catch((error) => toast(error.code === 0 ? explain(error) : t("fileFailed")));
  } },
  h("span", { class: "file-icon" }, icon("file")), h("span", { class: "file-text" }, h("span", { class: "file-name" }, name), h("span", { class: "file-size" }, fileSize(body.size))));
}

function quote(chat, seq, { quoteOf, onQuote }) {
  const original = quoteOf(seq);
  return h("button", { type: "button", class: "quote", onclick: () => onQuote(seq) },
    original ? [h("span", { class: "quote-name" }, original.from === chat.me ? t("you") : chat.name(original.from)), h("span", { class: "quote-text" }, summary(original, chat))]
      : h("span", { class: "quote-text" }, original === undefined ? t("loading") : t("notLoaded")));
}

/** What the server says, between the messages. */
function systemLine(chat, message) {
  const text = summary(message, chat);
  return h("div", { class: "row row-system", tabIndex: -1, role: "article", "aria-label": text, dataset: { seq: message.seq ?? "" }, title: exactTime(message.sent_at) }, h("span", { dir: "auto" }, text));
}

function failure(chat, { message, error }) {
  const text = error?.code === 404 ? t("noSuchUser", { id: chat.conversation(message.conversation_id).peer }) : explain(error ?? {});
  return h("div", { class: "failure", role: "alert" }, h("span", {}, `${t("statusFailed")}: ${text}`),
    h("button", { type: "button", class: "link-button", onclick: () => chat.client.resend(message.client_id) }, t("retry")),
    h("button", { type: "button", class: "link-button", onclick: () => chat.client.discard(message.client_id) }, t("discard")));
}

/** A file on its way. */
export function uploadBubble(upload) {
  const percent = Math.round(upload.progress * 100);
  const row = h("div", { class: "row row-own row-first row-last", role: "group", "aria-label": upload.name },
    h("div", { class: "bubble bubble-upload" },
      upload.preview ? h("img", { class: "upload-preview", src: upload.preview, alt: "" }) : h("span", { class: "file-icon" }, icon("file")),
      h("div", { class: "upload-text" }, h("span", { class: "file-name" }, upload.name), h("span", { class: "file-size" }, upload.error ? uploadFault(upload.error) : fileSize(upload.file.size)),
        upload.error ? null : h("progress", { max: 100, value: percent, "aria-label": t("uploading", { name: upload.name, percent }) })),
      upload.error ? h("button", { type: "button", class: "icon-button", "aria-label": t("retry"), title: t("retry"), onclick: () => upload.run() }, icon("retry")) : null,
      h("button", { type: "button", class: "icon-button", "aria-label": t("cancel"), title: t("cancel"), onclick: () => upload.cancel() }, icon("close"))));
  return row;
}

function uploadFault(error) {
  if (error.code === 404 || error.code === 405) return t("noFiles");
  if (error.code === 413) return t("tooLarge");
  return `${t("uploadFailed")}. ${error.code === 0 ? t("err_connection") : error.message}`;
}
