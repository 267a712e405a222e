/** Texts, times, lists and sizes in the language of the user. To add a language: one more table with the same keys. */
import { en } from "/app/texts-en.js";
import { zh } from "/app/texts-zh.js";

const tables = { en, zh };
export const languages = { en: "English", zh: "中文" };

let current = "en";

/** The language in use: a key of `languages`. */
export const language = () => current;

/** What a table has under a key. A key may come out of a message: what objects have by themselves is no entry. */
export const entryOf = (table, key) => (typeof key === "string" && Object.hasOwn(table, key) ? table[key] : undefined);

/** Choose a language; undefined: what the browser prefers. */
export function setLanguage(name) {
  current = entryOf(tables, name) ? name : preferred();
  document.documentElement.lang = current === "zh" ? "zh-CN" : current;
  return current;
}

const preferred = () => (navigator.languages ?? [navigator.language]).some((tag) => /^zh\b/i.test(tag))
  && !/^en\b/i.test(navigator.language) ? "zh" : "en";

/** A text with its `{places}` filled in. */
export function t(key, values = {}) {
  const text = entryOf(tables[current], key) ?? entryOf(en, key) ?? (typeof key === "string" ? key : "");
  return text.replace(/\{(\w+)\}/g, (_all, name) => String(values[name] ?? ""));
}

/** Whether this is a time that a calendar has: others' numbers may be anything. */
const isTime = (ms) => typeof ms === "number" && Math.abs(ms) <= 8.64e15;

const formats = new Map();
const format = (options, ms) => {
  if (!isTime(ms)) return "";
  const key = current + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(current === "zh" ? "zh-CN" : undefined, options));
  return formats.get(key).format(ms);
};

const dayOf = (ms) => new Date(ms).setHours(0, 0, 0, 0);
const daysAgo = (ms) => Math.round((dayOf(Date.now()) - dayOf(ms)) / 86_400_000);

export const clock = (ms) => format({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }, ms);
export const exactTime = (ms) => format({ dateStyle: "full", timeStyle: "medium" }, ms);

export const dateTime = (ms) => format({ dateStyle: "medium", timeStyle: "short" }, ms);

/** For the list of conversations: the time today, the weekday this week, else the date. */
export function shortTime(ms) {
  const days = daysAgo(ms);
  if (days <= 0) return clock(ms);
  if (days < 7) return format({ weekday: "short" }, ms);
  return format(new Date(ms).getFullYear() === new Date().getFullYear() ? { month: "short", day: "numeric" } : { year: "numeric", month: "numeric", day: "numeric" }, ms);
}

/** For the line between two days. */
export function dayName(ms) {
  const days = daysAgo(ms);
  if (days === 0) return t("today");
  if (days === 1) return t("yesterday");
  return format(new Date(ms).getFullYear() === new Date().getFullYear() ? { weekday: "long", month: "long", day: "numeric" } : { dateStyle: "long" }, ms);
}

/** Names one after another, and how many there are beyond the first few. */
export function nameList(names, atMost = 5) {
  const shown = names.length > atMost ? [...names.slice(0, atMost), t("othersCount", { count: names.length - atMost })] : names;
  return new Intl.ListFormat(current === "zh" ? "zh-CN" : "en", { type: "conjunction" }).format(shown);
}

export const isSameDay = (a, b) => dayOf(a) === dayOf(b);

export function fileSize(bytes) {
  if (typeof bytes !== "number" || !(bytes >= 0)) return "";
  const step = Math.min(3, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${new Intl.NumberFormat(current, { maximumFractionDigits: step ? 1 : 0 }).format(bytes / 1024 ** step)} ${["B", "KB", "MB", "GB"][step]}`;
}
