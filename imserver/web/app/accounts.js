/**
 * Where a login is kept. "Keep me logged in" shares the session among all windows (localStorage); otherwise it belongs to
 * this tab (sessionStorage) and survives a reload. What belongs to one connection (device id, positions, unsent messages) is
 * never shared by two live tabs: two connections with one device id would replace each other.
 */
import { MemoryStore, WebStore, randomId } from "/imserver.js";

const LOCK_PATIENCE_MS = 700;
const RELOAD_PATIENCE_MS = 10_000; // the page before a reload gives its lock back, on a busy machine not at once

/** Storage of this kind, or memory where the browser forbids it. */
function storeOf(kind, prefix) {
  try {
    const storage = globalThis[kind];
    storage.getItem("imserver:");
    return new WebStore(storage, prefix);
  } catch {
    return new MemoryStore(); // cookies are blocked: this page alone remembers
  }
}

const tab = storeOf("sessionStorage", "imserver:");
const shared = storeOf("localStorage", "imserver:");

/** Hold a lock for the life of this page. True: it is ours, or the browser has no locks (pages without TLS). */
async function claim(name, patienceMs = LOCK_PATIENCE_MS) {
  if (!navigator.locks) return true;
  return new Promise((resolve) => {
    navigator.locks.request(name, { signal: AbortSignal.timeout(patienceMs) }, () => {
      resolve(true);
      return new Promise((release) => releases.set(name, release));
    }).catch(() => resolve(false)); // another tab holds it
  });
}

const releases = new Map();

/** Who is logged in here: `{userId, isShared}`, or null. */
export function current() {
  const own = tab.get("session");
  if (own) return { userId: own.user_id, isShared: false };
  const remembered = tab.get("elsewhere") ? null : shared.get("session");
  return remembered ? { userId: remembered.user_id, isShared: true } : null;
}

/** The name to put into the login form. */
export const lastUser = () => shared.get("last_user") ?? "";

/** The `Store` for one user's client, and the device id to use with it. */
export async function open(userId, { isShared }) {
  // What this tab had before a reload is its own, and soon free; else it may be a duplicated tab, whose first one goes on.
  const isReload = performance.getEntriesByType("navigation")[0]?.type === "reload";
  const before = !isReload ? null : isShared && !tab.get(`user:${userId}:device_id`) ? shared : tab;
  const kinds = isShared ? [[shared, `user:${userId}:`], [tab, `user:${userId}:`]] : [[tab, `user:${userId}:`]];
  for (const [base, prefix] of kinds) {
    const deviceId = base.get(`${prefix}device_id`) ?? randomId();
    if (await claim(`imserver-device:${deviceId}`, base === before ? RELOAD_PATIENCE_MS : LOCK_PATIENCE_MS)) return build(base, prefix, deviceId, isShared);
  }
  const [base, prefix] = [tab, `user:${userId}:`]; // a duplicated tab: another device, without the first one's messages
  for (const key of ["state", "outbox"]) base.remove(prefix + key);
  const deviceId = randomId();
  await claim(`imserver-device:${deviceId}`);
  return build(base, prefix, deviceId, isShared);
}

function build(base, prefix, deviceId, isShared) {
  base.set(`${prefix}device_id`, deviceId);
  const place = (key) => (key === "session" ? [isShared ? shared : tab, key] : [base, prefix + key]);
  return {
    deviceId,
    store: {
      get: (key) => { const [where, name] = place(key); return where.get(name); },
      set: (key, value) => {
        const [where, name] = place(key);
        where.set(name, value);
        if (key === "session" && isShared) { shared.set("last_user", value.user_id); tab.remove("elsewhere"); }
      },
      remove: (key) => { const [where, name] = place(key); where.remove(name); },
    },
    release: () => { releases.get(`imserver-device:${deviceId}`)?.(); releases.delete(`imserver-device:${deviceId}`); },
  };
}

/** Let this tab use another account; a remembered one stays logged in for the others. */
export function leaveShared() { tab.set("elsewhere", true); }

/** This page's own settings: theme, language, sound, notifications. */
export const preferences = {
  get: (name) => shared.get(`preference:${name}`),
  set: (name, value) => shared.set(`preference:${name}`, value),
};
