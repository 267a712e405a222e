// Unit tests of imserver.js against a scripted socket. Run by test_client_js.py, or: IMSERVER_JS=…/imserver.mjs node --test client_unit.test.mjs
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { DIRECT, ME, PEER, Script, entry, login, message, settle, waitFor } from "./scripted_socket.mjs";

const { Backoff, Command, ImClient, ImError, LIMITS, MemoryStore, Track, applyChange, collect, directId } = await import(process.env.IMSERVER_JS);

const clients = [];
const make = (script, options = {}) => {
  const client = new ImClient({ url: "ws://x/ws", WebSocket: script.WebSocket, backoff: { minMs: 1, maxMs: 4 }, ackDelayMs: 5, timeoutMs: 2000, history: "all", ...options });
  clients.push(client);
  client.got = [];
  client.on("message", (one) => client.got.push(one));
  return client;
};
const seqs = (client) => client.got.map((one) => one.seq);
const sendAnswer = (seq) => ({ conversation_id: DIRECT, seq, message_id: `m${seq}`, sent_at: 1000 + seq });

afterEach(() => { for (const client of clients.splice(0)) client.close(); });

// ---------------------------------------------------------------- parts

test("a track gives every message once and in order, whatever order and repeats they come in", () => {
  let state = 12345;
  const random = () => (state = (state * 1103515245 + 12345) % 2 ** 31) / 2 ** 31;
  for (let round = 0; round < 200; round += 1) {
    const track = new Track(DIRECT, ME);
    track.begin(0);
    const arrivals = Array.from({ length: 20 }, (_none, index) => index + 1).flatMap((seq) => Array(1 + Math.floor(random() * 2)).fill(seq)).sort(() => random() - 0.5);
    const got = arrivals.flatMap((seq) => track.arrived(message(seq))).map((one) => one.seq);
    assert.deepEqual(got, Array.from({ length: 20 }, (_none, index) => index + 1));
    assert.equal(track.isLagging, false);
  }
});

test("the unread number of a track equals a count from scratch, through reads, syncs and one's own messages", () => {
  let state = 99;
  const random = (below) => { state = (state * 1103515245 + 12345) % 2 ** 31; return Math.floor((state / 2 ** 31) * below); };
  for (let round = 0; round < 200; round += 1) {
    const track = new Track(DIRECT, ME);
    const all = []; // the server's truth
    let readSeq = 0;
    const truth = () => all.filter((one) => one.seq > readSeq && one.from !== ME && one.type !== "system").length;
    track.begin(0);
    for (let step = 0; step < 40; step += 1) {
      const seq = all.length + 1;
      const kind = random(6);
      if (kind < 3) { const one = message(seq, { type: random(5) ? "text" : "system" }); all.push(one); track.arrived(one); }
      else if (kind === 3) { const one = message(seq, { from: ME }); all.push(one); readSeq = seq; track.arrived(one); }
      else if (kind === 4 && all.length) {
        const upto = 1 + random(all.length);
        readSeq = Math.max(readSeq, upto);
        track.read(upto);
        if (track.isUncertain) track.synced(entry(all.length, { unread: truth(), read_seq: readSeq }));
      } else track.synced(entry(all.length, { unread: truth(), read_seq: readSeq, last_message: null }));
      assert.equal(track.unread, truth());
    }
  }
});

test("a track keeps a bounded number of early messages and of single unread ones", () => {
  const track = new Track(DIRECT, ME);
  track.begin(0);
  for (let seq = 1000; seq > 1; seq -= 1) track.arrived(message(seq));
  assert.equal(track.early.size, LIMITS.early);
  const long = new Track(DIRECT, ME);
  long.begin(0);
  for (let seq = 1; seq <= 5000; seq += 1) long.arrived(message(seq));
  assert.equal(long.unread, 5000);
  assert.ok(long.fresh.length <= LIMITS.fresh);
});

test("a back-off is drawn between what the server asks for and a ceiling that doubles up to its bound", () => {
  const highest = new Backoff({ minMs: 100, maxMs: 1000, random: () => 1 });
  assert.deepEqual([1, 2, 3, 4, 5, 6].map(() => highest.next()), [100, 200, 400, 800, 1000, 1000]);
  highest.reset();
  assert.equal(highest.next(5000), 5100);
  assert.equal(new Backoff({ random: () => 0 }).next(), 0);
});

test("a direct conversation's id has the user ids in byte order", () => {
  assert.equal(directId("b", "a"), "d:a:b");
  assert.equal(directId("a", "B"), "d:B:a");
});

// ---------------------------------------------------------------- receiving

test("a gap is pulled before anything beyond it is delivered", async () => {
  const script = new Script({ 2002: ({ after_seq: after }) => ({ messages: [2, 3, 4].filter((seq) => seq > after).map((seq) => message(seq)), first_seq: 1, last_seq: 4 }) });
  const client = make(script);
  await client.login(ME, "pw");
  script.socket.push(5001, message(1));
  script.socket.push(5001, message(4));
  await script.waitSent(2002);
  await settle();
  assert.deepEqual(seqs(client), [1, 2, 3, 4]);
  assert.equal(script.sent(2002)[0].after_seq, 1);
  script.socket.push(5001, message(3));
  assert.deepEqual(seqs(client), [1, 2, 3, 4]);
});

test("what a PULL leaves out does not exist, and is passed over", async () => {
  const script = new Script({ 1002: () => login({ sync: { conversations: [entry(9)], next_cursor: "2", more: false } }),
    2002: ({ after_seq: after }) => ({ messages: [5, 8].filter((seq) => seq > after).map((seq) => message(seq)), first_seq: 5, last_seq: 9 }) });
  const client = make(script);
  await client.login(ME, "pw");
  await waitFor(client, "synced");
  assert.deepEqual(seqs(client), [5, 8]);
  script.socket.push(5001, message(10));
  assert.deepEqual(seqs(client), [5, 8, 10]);
});

test("a message of a conversation that no SYNC has shown waits for the SYNC", async () => {
  const script = new Script({ 2003: { conversations: [entry(7, { delivered_seq: 5 })], next_cursor: "2", more: false },
    2002: ({ after_seq: after }) => ({ messages: [6, 7].filter((seq) => seq > after).map((seq) => message(seq)), first_seq: 1, last_seq: 7 }) });
  const client = make(script, { history: "undelivered" });
  await client.login(ME, "pw");
  script.socket.push(5001, message(7));
  await script.waitSent(2003);
  await settle();
  assert.deepEqual(seqs(client), [6, 7]);
});

test("confirmations are gathered, one cumulative frame for many messages", async () => {
  const script = new Script();
  const client = make(script);
  await client.login(ME, "pw");
  for (let seq = 1; seq <= 5; seq += 1) script.socket.push(5001, message(seq));
  await script.waitSent(5002);
  await settle();
  assert.deepEqual(script.sent(5002).map((frame) => frame.acks), [{ [DIRECT]: 5 }]);
});

test("a handler that throws harms neither the next handler nor the connection", async () => {
  const script = new Script();
  const client = make(script);
  const faults = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => faults.push(error.message));
  try {
    const off = client.on("message", () => { throw new Error("the application's own"); });
    const late = [];
    client.on("message", (one) => late.push(one.seq));
    await client.login(ME, "pw");
    script.socket.push(5001, message(1));
    off();
    script.socket.push(5001, message(2));
    await settle();
    assert.deepEqual(late, [1, 2]);
    assert.deepEqual(faults, ["the application's own"]);
  } finally {
    process.removeAllListeners("uncaughtException");
    for (const listener of listeners) process.on("uncaughtException", listener);
  }
});

test("an absence longer than skipBeyond is told as a gap, not delivered", async () => {
  const store = new MemoryStore();
  store.set("state", { user_id: ME, cursor: "1", has_synced: true, positions: { [DIRECT]: [10, 10, 10, 0] } });
  const script = new Script({ 1002: () => login({ sync: { conversations: [entry(500)], next_cursor: "2", more: false } }) });
  const client = make(script, { store, skipBeyond: 100 });
  const gaps = [];
  client.on("gap", (gap) => gaps.push(gap.conversation_id));
  await client.login(ME, "pw");
  await settle();
  assert.deepEqual(gaps, [DIRECT]);
  assert.deepEqual(script.sent(2002), []);
  script.socket.push(5001, message(501));
  assert.deepEqual(seqs(client), [501]);
  assert.equal(client.conversation(DIRECT).unread, 501);
});

test("recalls and edits made while away are asked for and told", async () => {
  const store = new MemoryStore();
  store.set("state", { user_id: ME, cursor: "1", has_synced: true, positions: { [DIRECT]: [3, 3, 3, 0] } });
  const script = new Script({ 1002: () => login({ sync: { conversations: [entry(3, { last_rev: 5 })], next_cursor: "2", more: false } }),
    2014: { messages: [message(1, { rev: 5, recalled: true }), message(2, { rev: 4, edited_at: 9, body: "new" })], last_rev: 5, more: false } });
  const client = make(script, { store });
  const changes = [];
  client.on("changed", (change) => changes.push([change.seq, change.change]));
  await client.login(ME, "pw");
  await settle();
  assert.deepEqual(changes, [[2, "edited"], [1, "recalled"]]);
  assert.equal(script.sent(2014)[0].since_rev, 3);
});

test("what changed while its PULL was under way is not taken from an older answer, but pulled again", async () => {
  const pulls = [];
  const script = new Script({ 1002: () => login({ sync: { conversations: [entry(3)], next_cursor: "2", more: false } }), 2002: (frame, socket) => { pulls.push([frame, socket]); } });
  const client = make(script);
  client.on("changed", (change) => assert.fail(`seq ${change.seq} was not shown yet`));
  await client.login(ME, "pw");
  await script.waitSent(2002);
  const answer = async (messages) => {
    const [frame, socket] = pulls.shift();
    socket.push(2002, { rid: frame.rid, code: 0, messages: messages.filter((one) => one.seq > frame.after_seq), first_seq: 1, last_seq: 3 });
    await settle();
  };
  script.socket.push(5003, { conversation_id: DIRECT, seq: 2, rev: 9, change: "recalled", by: PEER });
  await answer([message(1), message(2), message(3)]); // read before the recall
  assert.deepEqual(seqs(client), [1]);
  await answer([message(1), message(2, { rev: 9, recalled: true, body: undefined }), message(3)]);
  assert.deepEqual(client.got.map((one) => [one.seq, Boolean(one.recalled)]), [[1, false], [2, true], [3, false]]);
  assert.deepEqual(pulls, []);
});

test("the changes that a track remembers are bounded, and no older state takes a newer one's place", () => {
  const track = new Track(DIRECT, ME);
  track.begin(0);
  track.noteChange(1, 5);
  assert.equal(track.isOvertaken(message(1)), false, "no PULL is under way");
  track.pull(true);
  for (let seq = LIMITS.changed + 9; seq > 0; seq -= 1) track.noteChange(seq, 1000 + seq);
  assert.equal(track.changed.size, LIMITS.changed);
  assert.equal(track.isOvertaken(message(1, { rev: 1001 })), false);
  assert.equal(track.isOvertaken(message(1, { rev: 1000 })), true);
  assert.equal(track.isOvertaken(message(LIMITS.changed + 1, { rev: 9000 })), true, "what became of it is not known");
  track.pull(false);
  assert.equal(track.isOvertaken(message(1)), false);
  track.arrived(message(1, { rev: 7 }));
  track.synced(entry(1, { last_message: message(1, { rev: 6 }) }));
  assert.equal(track.last.rev, 7);
});

test("a message that came before its turn, and was changed while away, is not shown as it was", async () => {
  const now = message(3, { rev: 9, edited_at: 9, body: "new" });
  const script = new Script({ 2002: ({ after_seq: after }) => script.sent(1003).length ? { messages: [message(2), now].filter((one) => one.seq > after).slice(0, 1), first_seq: 1, last_seq: 3 } : undefined,
    2014: { messages: [now], last_rev: 9, more: false } });
  script.answers[1003] = () => login({ token: undefined, refresh_token: undefined, sync: { conversations: [entry(3, { last_rev: 9, last_message: now })], next_cursor: "2", more: false } });
  const client = make(script);
  await client.login(ME, "pw");
  script.socket.push(5001, message(1));
  script.socket.push(5001, message(3));
  await script.waitSent(2002);
  script.socket.drop();
  await script.waitSent(2002, 2);
  await settle();
  await settle();
  assert.deepEqual(client.got.map((one) => one.body), ["text 1", "text 2", "new"]);
});

test("confirmations take no longer frames than the server does", async () => {
  const max_frame = 1024;
  const script = new Script({ 4: { code: 0, heartbeat_ms: 30_000, max_frame } });
  const client = make(script);
  await client.login(ME, "pw");
  const ids = Array.from({ length: 40 }, (_none, index) => `d:me:${"w".repeat(58)}${10 + index}`);
  for (const id of ids) script.socket.push(5001, message(1, { conversation_id: id }));
  await script.waitSent(5002, 4);
  await settle();
  await settle();
  const frames = script.sent(5002).map(({ socket: _socket, ...frame }) => frame);
  for (const frame of frames) assert.ok(JSON.stringify(frame).length <= max_frame);
  assert.deepEqual(frames.flatMap((frame) => Object.keys(frame.acks)).sort(), ids);
});

test("a cursor that the server does not take any more costs a full SYNC and nothing else", async () => {
  const store = new MemoryStore();
  store.set("state", { user_id: ME, cursor: "old", has_synced: true, positions: { [DIRECT]: [2, 2, 2, 0] } });
  const script = new Script({ 1002: () => login({ sync: { code: 400, error: "bad_request", field: "cursor" } }),
    2003: { conversations: [entry(3)], next_cursor: "3", more: false },
    2002: { messages: [message(3)], first_seq: 1, last_seq: 3 } });
  const client = make(script, { store, fullSync: false });
  await client.login(ME, "pw");
  await script.waitSent(2002);
  await settle();
  assert.equal(script.sent(1002)[0].sync, "old");
  assert.equal(script.sent(2003)[0].cursor, undefined);
  assert.deepEqual(seqs(client), [3]);
});

// ---------------------------------------------------------------- sending

test("a message without an answer is sent again with the same client_id, and comes once", async () => {
  let count = 0;
  const script = new Script({ 2001: (_frame, socket) => { if (++count === 1) { socket.drop(); return null; } return { ...sendAnswer(1), duplicate: true }; } });
  const client = make(script);
  await client.login(ME, "pw");
  const sent = await client.send(PEER, "hello");
  assert.equal(sent.seq, 1);
  const frames = script.sent(2001);
  assert.equal(frames.length, 2);
  assert.equal(frames[0].client_id, frames[1].client_id);
  assert.notEqual(frames[0].socket, frames[1].socket);
  await settle();
  assert.deepEqual(client.got.map((one) => [one.seq, one.from, one.body]), [[1, ME, "hello"]]);
  assert.deepEqual(client.outgoing, []);
});

test("a message that comes back by PULL before its answer counts as sent, once", async () => {
  let clientId = "";
  let isAway = true;
  const script = new Script({
    2001: (frame, socket) => { clientId = frame.client_id; if (isAway) { isAway = false; socket.drop(); } return null; },
    1003: () => login({ sync: { conversations: [entry(1, { unread: 0, last_message: message(1, { from: ME }) })], next_cursor: "2", more: false } }),
    2002: () => ({ messages: [message(1, { from: ME, client_id: clientId, body: "hello" })], first_seq: 1, last_seq: 1 }),
  });
  const client = make(script);
  await client.login(ME, "pw");
  assert.equal((await client.send(PEER, "hello")).seq, 1);
  await settle();
  assert.deepEqual(seqs(client), [1]);
  assert.deepEqual(client.outgoing, []);
});

test("messages to one conversation go one by one and in order; conversations do not wait for each other", async () => {
  const script = new Script();
  const client = make(script);
  await client.login(ME, "pw");
  const first = client.send(PEER, "1");
  const second = client.send(PEER, "2");
  client.send("other", "3").catch(() => {}); // never answered here: closing ends it
  await script.waitSent(2001, 2);
  await settle();
  assert.deepEqual(script.sent(2001).map((frame) => frame.body), ["1", "3"]);
  script.answers[2001] = sendAnswer(2);
  script.socket.push(2001, { rid: script.sent(2001)[0].rid, code: 0, ...sendAnswer(1) });
  assert.deepEqual([(await first).seq, (await second).seq], [1, 2]);
});

test("a busy server is asked again; a refusal fails the message, and the line goes on", async () => {
  let count = 0;
  const script = new Script({ 2001: ({ body }) => {
    count += 1;
    if (count === 1) return { code: 503, error: "unavailable", message: "busy", retry_after_ms: 1 };
    return body === "bad" ? { code: 403, error: "forbidden", message: "no" } : sendAnswer(1);
  } });
  const client = make(script, { random: () => 0 });
  await client.login(ME, "pw");
  const bad = client.send(PEER, "bad");
  const good = client.send(PEER, "good");
  await assert.rejects(bad, (error) => error instanceof ImError && error.code === 403 && error.error === "forbidden" && !error.isUnknown);
  assert.equal((await good).seq, 1);
  assert.deepEqual(script.sent(2001).map((frame) => frame.body), ["bad", "bad", "good"]);
  assert.deepEqual(client.outgoing.map((one) => [one.status, one.error.error]), [["failed", "forbidden"]]);
  script.answers[2001] = sendAnswer(2);
  client.resend(client.outgoing[0].client_id);
  await waitFor(client, "message", (one) => one.seq === 2);
  assert.deepEqual(client.outgoing, []);
});

test("unsent messages survive a reload in the store, with their client_id", async () => {
  const store = new MemoryStore();
  const silent = new Script();
  const before = make(silent, { store });
  await before.login(ME, "pw");
  before.send(PEER, "one").catch(() => {});
  before.send(PEER, "two").catch(() => {});
  const [frame] = await silent.waitSent(2001);
  before.close();

  let seq = 0;
  const script = new Script({ 2001: () => sendAnswer(seq += 1) });
  const after = make(script, { store });
  assert.equal(await after.restore(), true);
  await script.waitSent(2001, 2);
  await settle();
  assert.deepEqual(script.sent(2001).map((one) => one.body), ["one", "two"]);
  assert.equal(script.sent(2001)[0].client_id, frame.client_id);
  assert.deepEqual(after.outgoing, []);
  after.close();
  assert.deepEqual(store.get("outbox").entries, [], "what was accepted is not in the store any more");
});

test("a login by a token finds what the store holds of its user, and nothing of another's", async () => {
  const stored = (user) => {
    const store = new MemoryStore();
    store.set("state", { user_id: user, cursor: "7", has_synced: true, positions: { [DIRECT]: [5, 5, 5, 0] }, reads: {} });
    store.set("outbox", { user_id: user, entries: [{ client_id: "c1", conversation_id: DIRECT, to: PEER, type: "text", body: "kept", created_at: 1, status: "pending", bytes: 9 }] });
    return store;
  };
  const own = new Script({ 2001: () => sendAnswer(6) });
  const client = make(own, { store: stored(ME) });
  await client.authenticate("t");
  await own.waitSent(2001);
  await settle();
  assert.deepEqual(own.sent(2001).map((frame) => [frame.client_id, frame.body]), [["c1", "kept"]]);
  assert.deepEqual(client.outgoing, []);
  assert.deepEqual(seqs(client), [6], "it goes on behind what it had");

  const other = new Script({ 2001: () => sendAnswer(1), 2003: { conversations: [entry(1)], next_cursor: "9", more: false }, 2002: { messages: [message(1)], first_seq: 1, last_seq: 1 } });
  const stranger = make(other, { store: stored("somebody"), fullSync: false });
  await stranger.authenticate("t");
  await settle();
  assert.deepEqual(other.sent(2001), []);
  assert.deepEqual(stranger.outgoing, []);
  assert.equal(other.sent(2003)[0].cursor, undefined, "the other's cursor says nothing of this user");
  assert.deepEqual(seqs(stranger), [1]);
});

test("a message that was sent more than a day ago is not sent again by itself", async () => {
  const store = new MemoryStore();
  store.set("session", { user_id: ME, token: "t", refresh_token: "r", expires_at: Date.now() + 1e6, device_id: "dev" });
  store.set("state", { user_id: ME, cursor: "", has_synced: false, positions: {} });
  store.set("outbox", { user_id: ME, entries: [{ client_id: "c1", conversation_id: DIRECT, to: PEER, type: "text", body: "old", created_at: 1, status: "pending", sent_at: Date.now() - LIMITS.resendForMs - 1, bytes: 9 }] });
  const script = new Script({ 2001: sendAnswer(1) });
  const client = make(script, { store });
  await client.restore();
  await waitFor(client, "outgoing", (one) => one.outgoing?.status === "failed");
  assert.equal(client.outgoing[0].error.error, "too_old");
  assert.deepEqual(script.sent(2001), []);
});

test("the outbox is bounded in messages and in bytes", async () => {
  const script = new Script();
  script.isRefusing = true;
  const store = new MemoryStore();
  store.set("session", { user_id: ME, token: "t", expires_at: 0, device_id: "dev" });
  const client = make(script, { store, maxOutbox: 3, maxOutboxBytes: 2000 });
  await client.restore();
  const ends = ["a", "b"].map((body) => client.send(PEER, body).catch((error) => error.error));
  await assert.rejects(client.send(PEER, "x".repeat(2000)), { code: 0, error: "outbox_full" });
  ends.push(client.send(PEER, "c").catch((error) => error.error));
  await assert.rejects(client.send(PEER, "d"), { error: "outbox_full" });
  assert.equal(client.discard(client.outgoing[0].client_id), true);
  assert.equal(await ends[0], "aborted");
  assert.equal(client.outgoing.length, 2);
});

// ---------------------------------------------------------------- connection and session

test("GOAWAY draining reconnects by the token; replaced and kicked end the session", async () => {
  for (const reason of ["replaced", "kicked"]) {
    const script = new Script();
    const store = new MemoryStore();
    const client = make(script, { store });
    await client.login(ME, "pw");
    script.socket.push(2, { code: 503, error: "draining", message: "", retry_after_ms: 1 });
    await waitFor(client, "state", (state) => state.name === "online");
    assert.equal(script.sent(1003).length, 1);
    const ended = waitFor(client, "ended");
    script.socket.push(2, { code: 409, error: reason, message: "elsewhere" });
    assert.equal((await ended).reason, reason);
    await settle();
    assert.equal(client.state.name, "ended");
    assert.equal(script.sockets.length, 2, "it does not connect again");
    await assert.rejects(client.request(Command.GET_USER, { user_ids: [] }), { error: "ended" });
    assert.equal(store.get("session") === undefined, reason === "kicked");
  }
});

test("a lost connection is made again, and its delay is never below what the server asked for", async () => {
  const script = new Script();
  const client = make(script, { backoff: { minMs: 1, maxMs: 1 } });
  await client.login(ME, "pw");
  const asked = Date.now();
  script.socket.push(2, { code: 503, error: "draining", message: "", retry_after_ms: 60_000 });
  const state = await waitFor(client, "state", (one) => one.name === "reconnecting");
  assert.ok(state.retryAt - asked >= 60_000);
  client.retryNow();
  await waitFor(client, "state", (one) => one.name === "online");
});

test("a dead token is renewed by the refresh token; both new ones are kept before anything else", async () => {
  const store = new MemoryStore();
  store.set("session", { user_id: ME, token: "dead", refresh_token: "r0", expires_at: 1, device_id: "dev" });
  const script = new Script({
    1003: ({ token }) => (token === "dead" ? { code: 401, error: "unauthenticated", message: "" } : login({ token: undefined, refresh_token: undefined })),
    1004: { token: "t2", refresh_token: "r2", expires_at: Date.now() + 1e6 },
  });
  const client = make(script, { store });
  await client.restore();
  await client.connect();
  assert.deepEqual(script.frames.map((frame) => frame.cmd).filter((cmd) => cmd > 1000 && cmd < 2000), [1003, 1004, 1003]);
  assert.equal(script.sent(1004)[0].refresh_token, "r0");
  assert.deepEqual([store.get("session").token, store.get("session").refresh_token], ["t2", "r2"]);
});

test("a refused refresh token ends the session as unauthenticated", async () => {
  const store = new MemoryStore();
  store.set("session", { user_id: ME, token: "dead", refresh_token: "r0", expires_at: 1, device_id: "dev" });
  const refused = { code: 401, error: "unauthenticated", message: "no" };
  const client = make(new Script({ 1003: refused, 1004: refused }), { store });
  const ended = waitFor(client, "ended");
  await client.restore();
  assert.equal((await ended).reason, "unauthenticated");
  assert.equal(store.get("session"), undefined);
});

test("a token that another tab has renewed is taken from the store; the refresh token is not used twice", async () => {
  const store = new MemoryStore();
  const script = new Script();
  const client = make(script, { store });
  await client.login(ME, "pw");
  store.set("session", { ...store.get("session"), token: "t9", refresh_token: "r9", expires_at: Date.now() + 9e6 });
  assert.equal((await client.refresh()).token, "t9");
  assert.deepEqual(script.sent(1004), []);
});

test("errors are typed, and a login that fails says so", async () => {
  const script = new Script({ 1002: { code: 401, error: "unauthenticated", message: "wrong" }, 1006: { code: 429, error: "rate_limited", message: "slow", retry_after_ms: 9_000_000, field: "user_ids" } });
  const client = make(script);
  await assert.rejects(client.login(ME, "bad"), { name: "ImError", code: 401, error: "unauthenticated" });
  assert.equal(client.userId, null);
  script.answers[1002] = login();
  await client.login(ME, "good");
  await assert.rejects(client.users(["x"]), { code: 429, retryAfterMs: 9_000_000, field: "user_ids", command: 1006 });
});

test("a request that may be repeated is asked again on the next connection; another one is not", async () => {
  let count = 0;
  const script = new Script({ 1006: (_frame, socket) => { if (++count === 1) { socket.drop(); return null; } return { users: [{ user_id: "x" }] }; }, 6001: (_frame, socket) => { socket.drop(); return null; } });
  const client = make(script);
  await client.login(ME, "pw");
  assert.deepEqual(await client.users(["x"]), [{ user_id: "x" }]);
  await assert.rejects(client.request(6001, {}), { code: 0, error: "connection_lost", isUnknown: true });
  assert.equal(script.sent(6001).length, 1);
});

test("a request without an answer ends by its deadline", async () => {
  const client = make(new Script());
  await client.login(ME, "pw");
  await assert.rejects(client.request(6001, {}, { timeoutMs: 20 }), { code: 0, error: "request_timeout" });
});

test("a server that is not there fails a login in time, and requests wait for it no longer than asked", async () => {
  const script = new Script();
  script.isRefusing = true;
  const client = make(script, { timeoutMs: 30 });
  await assert.rejects(client.login(ME, "pw"), { code: 0, error: "request_timeout" });
});

test("an unknown command is asked for once, and known to be missing from then on", async () => {
  const script = new Script({ 2009: { code: 404, error: "unknown_command", message: "" }, 2005: { code: 400, error: "bad_request", message: "", field: "seq" } });
  const client = make(script);
  await client.login(ME, "pw");
  assert.equal(await client.supports(Command.SEARCH), false);
  assert.equal(await client.supports(Command.RECALL), true);
  await assert.rejects(client.search("x"), { code: 404, error: "unknown_command" });
  assert.equal(script.sent(2009).length, 1);
});

test("what the server pushes as ERROR is told; an unknown TYPING is not sent again", async () => {
  const script = new Script();
  const client = make(script);
  await client.login(ME, "pw");
  client.typing(DIRECT);
  script.socket.push(3, { code: 404, error: "unknown_command", message: "", command: 2008 });
  client.typing(DIRECT);
  assert.equal(script.sent(2008).length, 1);
  const problem = waitFor(client, "problem");
  script.socket.push(3, { code: 500, error: "internal", message: "trace 1" });
  assert.equal((await problem).error.code, 500);
});

test("what is read while offline is told to the server later", async () => {
  const script = new Script({ 1002: () => login({ sync: { conversations: [entry(4)], next_cursor: "1", more: false } }),
    2002: () => ({ messages: [1, 2, 3, 4].map((seq) => message(seq)), first_seq: 1, last_seq: 4 }), 2004: { unread: 0 } });
  const client = make(script);
  await client.login(ME, "pw");
  await waitFor(client, "synced");
  assert.equal(client.conversation(DIRECT).unread, 4);
  script.isRefusing = true;
  script.socket.drop();
  await waitFor(client, "state", (state) => state.name === "reconnecting");
  client.markRead(DIRECT);
  assert.equal(client.conversation(DIRECT).unread, 0);
  assert.deepEqual(script.sent(2004), []);
  script.isRefusing = false;
  assert.equal((await script.waitSent(2004))[0].seq, 4);
});

test("reading on another device, in the middle of what SYNC counted, asks the server for the number", async () => {
  const script = new Script({ 1002: () => login({ sync: { conversations: [entry(9)], next_cursor: "1", more: false } }),
    2003: { conversations: [entry(9, { read_seq: 5, unread: 4 })], next_cursor: "2", more: false } });
  const client = make(script, { history: "new" });
  await client.login(ME, "pw");
  script.socket.push(5004, { conversation_id: DIRECT, user_id: ME, seq: 5 });
  await script.waitSent(2003);
  await settle();
  assert.equal(client.conversation(DIRECT).unread, 4);
});

test("the peer's reading is known from its READ and from its own messages", async () => {
  const script = new Script({ 2001: sendAnswer(1) });
  const client = make(script);
  await client.login(ME, "pw");
  await client.send(PEER, "x");
  assert.equal(client.conversation(DIRECT).peer_read_seq, 0);
  script.socket.push(5004, { conversation_id: DIRECT, user_id: PEER, seq: 1 });
  assert.equal(client.conversation(DIRECT).peer_read_seq, 1);
  script.socket.push(5001, message(2));
  assert.equal(client.conversation(DIRECT).peer_read_seq, 2);
});

test("a store that fails is reported, and the client goes on", async () => {
  const store = { get: () => undefined, set: () => { throw new Error("full"); }, remove: () => {} };
  const script = new Script({ 2001: sendAnswer(1) });
  const client = make(script, { store });
  const problems = [];
  client.on("problem", ({ error }) => problems.push(error.message));
  await client.login(ME, "pw");
  assert.equal((await client.send(PEER, "x")).seq, 1);
  assert.ok(problems.includes("full"));
});

test("frames that are no JSON, or from nowhere, do not stop the client", async () => {
  const script = new Script();
  const client = make(script);
  await client.login(ME, "pw");
  script.socket.push(4242, { any: "thing" });
  script.socket.push(2001, { rid: 999, code: 0 });
  script.socket.onmessage({ data: "{" });
  await waitFor(client, "state", (state) => state.name === "online");
  assert.equal(script.sockets.length, 2);
});

// ---------------------------------------------------------------- files

const json = (status, body) => ({ ok: status < 300, status, statusText: "", json: async () => body, blob: async () => new Blob(["content"], { type: "image/png" }) });

test("a small file goes in one request, with its name, type and token", async () => {
  const requests = [];
  const script = new Script();
  const client = make(script, { fetch: async (url, options) => { requests.push({ url, ...options }); return json(201, { file_id: "f", url: "/v1/files/f" }); } });
  await client.login(ME, "pw");
  const progress = [];
  const stored = await client.upload(new Blob(["abc"], { type: "text/plain" }), { name: "naïve \n.txt", onProgress: (sent, total) => progress.push([sent, total]) });
  assert.equal(stored.file_id, "f");
  assert.deepEqual(requests.map((one) => [one.method, one.url]), [["POST", "http://x/v1/files"]]);
  assert.deepEqual(requests[0].headers, { "Content-Type": "text/plain", "X-File-Name": "na%C3%AFve%20%0A.txt", Authorization: "Bearer t1" });
  assert.deepEqual(progress, [[3, 3]]);
});

test("a large upload goes on where the server's part ends", async () => {
  const size = LIMITS.wholeUploadBytes + 10;
  const patches = [];
  const fetch = async (_url, { method, headers, body }) => {
    if (method === "POST") { assert.equal(headers["Upload-Length"], String(size)); return json(201, { file_id: "f", upload_url: "/v1/files/f", offset: 0, size }); }
    patches.push([Number(headers["Upload-Offset"]), body.size]);
    if (patches.length === 1) throw new TypeError("network");
    if (patches.length === 2) return json(409, { code: 409, error: "wrong_offset", message: "", offset: 1000 });
    return json(200, { file_id: "f", url: "/v1/files/f" });
  };
  const client = make(new Script(), { fetch, random: () => 0 });
  await client.login(ME, "pw");
  assert.equal((await client.upload(new Blob([new Uint8Array(size)]))).file_id, "f");
  assert.deepEqual(patches, [[0, size], [0, size], [1000, size - 1000]]);
});

test("an upload that the server refuses, or that gets nowhere, ends with the error", async () => {
  const refusing = make(new Script(), { fetch: async () => json(413, { code: 413, error: "too_large", message: "big" }) });
  await refusing.login(ME, "pw");
  await assert.rejects(refusing.upload(new Blob(["x"])), { code: 413, error: "too_large" });
  let attempts = 0;
  const broken = make(new Script(), { random: () => 0, fetch: async (_url, { method }) => {
    if (method === "POST") return json(201, { upload_url: "/v1/files/f", offset: 0 });
    attempts += 1;
    throw new TypeError("network");
  } });
  await broken.login(ME, "pw");
  await assert.rejects(broken.upload(new Blob([new Uint8Array(LIMITS.wholeUploadBytes + 1)])), { error: "upload_failed" });
  assert.equal(attempts, LIMITS.uploadAttempts + 1);
});

test("a download with a dead token is repeated with a new one", async () => {
  const tokens = [];
  const script = new Script({ 1004: { token: "t2", refresh_token: "r2", expires_at: Date.now() + 1e6 } });
  const client = make(script, { fetch: async (_url, { headers }) => { tokens.push(headers.Authorization); return tokens.length === 1 ? json(401, { code: 401, error: "unauthenticated" }) : json(200, {}); } });
  await client.login(ME, "pw");
  assert.equal((await client.download("f/1")).size, 7);
  assert.deepEqual(tokens, ["Bearer t1", "Bearer t2"]);
});

// ---------------------------------------------------------------- every command, every push

const GROUP = "g:team";

/** One call of each method: [method, arguments, command, the body that must be sent, the answer, the result if it is another]. */
const CALLS = [
  ["ping", [], 1, {}, { server_time: 5 }],
  ["register", ["new", "pw", "Nick"], 1001, { user_id: "new", password: "pw", nickname: "Nick" }, { user_id: "new" }],
  ["users", [["a", "b"]], 1006, { user_ids: ["a", "b"] }, { users: [{ user_id: "a" }] }, [{ user_id: "a" }]],
  ["updateProfile", [{ nickname: "N", bio: null }], 1007, { nickname: "N", bio: null }, {}, undefined],
  ["changePassword", ["old", "new"], 1008, { old_password: "old", new_password: "new" }, {}],
  ["searchUsers", ["an", { limit: 5, cursor: "c" }], 1009, { query: "an", limit: 5, cursor: "c" }, { users: [], next_cursor: "d" }],
  ["devices", [], 1010, {}, { devices: [{ session_id: "s" }] }, [{ session_id: "s" }]],
  ["kickDevice", ["s"], 1011, { session_id: "s" }, {}, undefined],
  ["presence", [["a"]], 1012, { user_ids: ["a"] }, { presence: [{ user_id: "a", online: true, platforms: [] }] }, [{ user_id: "a", online: true, platforms: [] }]],
  ["watchPresence", [["a"]], 1013, { user_ids: ["a"] }, { presence: [] }, []],
  ["unwatchPresence", [["a"]], 1013, { user_ids: ["a"], unwatch: true }, {}, undefined],
  ["history", [GROUP, { beforeSeq: 9, limit: 3 }], 2002, { conversation_id: GROUP, before_seq: 9, limit: 3 }, { messages: [], first_seq: 1, last_seq: 8 }],
  ["sync", [{ cursor: "c", limit: 2 }], 2003, { cursor: "c", limit: 2 }, { conversations: [], next_cursor: "d", more: false }],
  ["recall", [GROUP, 3], 2005, { conversation_id: GROUP, seq: 3 }, {}, undefined],
  ["edit", [GROUP, 3, "new"], 2006, { conversation_id: GROUP, seq: 3, body: "new" }, { edited_at: 7 }],
  ["react", [GROUP, 3, "👍"], 2007, { conversation_id: GROUP, seq: 3, emoji: "👍" }, {}, undefined],
  ["react", [GROUP, 3, "👍", { remove: true }], 2007, { conversation_id: GROUP, seq: 3, emoji: "👍", remove: true }, {}, undefined],
  ["search", ["word", { conversationId: GROUP, from: "a", since: 1, until: 2, cursor: "c" }], 2009,
    { query: "word", conversation_id: GROUP, from: "a", since: 1, until: 2, cursor: "c", limit: 50 }, { messages: [] }],
  ["deleteConversation", [GROUP], 2010, { conversation_id: GROUP }, {}, undefined],
  ["receipts", [GROUP, 3], 2012, { conversation_id: GROUP, seq: 3 }, { read: ["a"], unread_count: 1 }],
  ["setConversation", [GROUP, { muted: true }], 2013, { conversation_id: GROUP, muted: true }, { muted: true }, { muted: true, pinned: false }],
  ["changes", [GROUP, 4, { limit: 5 }], 2014, { conversation_id: GROUP, since_rev: 4, limit: 5 }, { messages: [], last_rev: 4, more: false }],
  ["requestFriend", ["a", "hi"], 3001, { user_id: "a", message: "hi" }, { request_id: "r" }],
  ["answerFriend", ["r", false], 3002, { request_id: "r", accept: false }, {}, undefined],
  ["friends", [{ limit: 1 }], 3003, { limit: 1 }, { friends: [{ user_id: "a" }], next_cursor: "a" }],
  ["friendRequests", [{ direction: "out", state: "pending" }], 3004, { direction: "out", state: "pending", limit: 50 }, { requests: [] }],
  ["deleteFriend", ["a"], 3005, { user_id: "a" }, {}, undefined],
  ["block", ["a"], 3006, { user_id: "a" }, {}, undefined],
  ["unblock", ["a"], 3007, { user_id: "a" }, {}, undefined],
  ["blocked", [], 3008, { limit: 50 }, { users: [] }],
  ["setRemark", ["a", "boss"], 3009, { user_id: "a", remark: "boss" }, {}, undefined],
  ["createGroup", ["Team", { groupId: "team", members: ["a"], join: "open", history: "all" }], 4001, { name: "Team", group_id: "team", members: ["a"], join: "open", history: "all" },
    { group_id: "team", conversation_id: GROUP, failed: [] }],
  ["group", ["team"], 4002, { group_id: "team" }, { group: { group_id: "team" } }, { group_id: "team" }],
  ["updateGroup", ["team", { announcement: null, muted: true }], 4003, { group_id: "team", announcement: null, muted: true }, {}, undefined],
  ["dismissGroup", ["team"], 4004, { group_id: "team" }, {}, undefined],
  ["addMembers", ["team", ["a"]], 4005, { group_id: "team", user_ids: ["a"] }, { added: ["a"], failed: [] }],
  ["removeMembers", ["team", ["a"]], 4006, { group_id: "team", user_ids: ["a"] }, { removed: ["a"] }],
  ["leaveGroup", ["team"], 4007, { group_id: "team" }, {}, undefined],
  ["members", ["team"], 4008, { group_id: "team", limit: 50 }, { members: [] }],
  ["setRole", ["team", "a", "admin"], 4009, { group_id: "team", user_id: "a", role: "admin" }, {}, undefined],
  ["muteMember", ["team", "a", 60_000], 4010, { group_id: "team", user_id: "a", duration_ms: 60_000 }, { muted_until: 9 }],
  ["groups", [{ cursor: "a" }], 4011, { cursor: "a", limit: 50 }, { groups: [] }],
  ["joinGroup", ["team", "please"], 4012, { group_id: "team", message: "please" }, { request_id: "r" }],
  ["answerJoin", ["r", true], 4013, { request_id: "r", accept: true }, {}, undefined],
];

// By themselves or by a call that other tests make: HELLO, LOGIN, AUTH, REFRESH, LOGOUT, SEND, MARK_READ, TYPING, SEND_BATCH, PUSH_ACK; and what is pushed.
const ELSEWHERE = new Set([4, 1002, 1003, 1004, 1005, 2001, 2004, 2008, 2011, 5002]);

test("every command of the protocol has a method that sends what the protocol says and returns its answer", async () => {
  const commands = Object.values(Command).filter((id) => id < 5000 && id !== Command.GOAWAY && id !== Command.ERROR);
  const called = new Set(CALLS.map((call) => call[2]));
  assert.deepEqual(commands.filter((id) => !called.has(id) && !ELSEWHERE.has(id)), []);
  for (const call of CALLS) {
    const [method, args, command, body, answer, result] = call;
    const script = new Script({ [command]: answer });
    const client = make(script);
    await client.login(ME, "pw");
    const got = await client[method](...args);
    const { cmd: _cmd, rid, socket: _socket, ...sent } = script.sent(command).at(-1);
    assert.ok(rid > 0);
    assert.deepEqual(sent, body, method);
    if (call.length === 6) assert.deepEqual(got, result, method);
    else for (const [name, value] of Object.entries(answer)) assert.deepEqual(got[name], value, method);
    client.close();
  }
});

test("an answer without what it must have ends the call as bad_answer, whatever the command", async () => {
  for (const [method, args, command, , answer] of CALLS) {
    if (!Object.values(answer).some((value) => Array.isArray(value) && !["watchPresence", "createGroup"].includes(method))) continue;
    const script = new Script({ [command]: {} });
    const client = make(script);
    await client.login(ME, "pw");
    await assert.rejects(client[method](...args), (error) => error instanceof ImError && error.error === "bad_answer" && error.command === command, method);
    client.close();
  }
});

test("a batch goes in one request, and its messages come as events like all others", async () => {
  const script = new Script({ 2011: ({ messages }) => ({ results: messages.map((one, index) => (one.body === "bad" ? { code: 403, error: "forbidden" } : { code: 0, ...sendAnswer(index + 1) })) }) });
  const client = make(script);
  await client.login(ME, "pw");
  const results = await client.sendBatch([{ to: PEER, body: "one" }, { to: PEER, body: "two", client_id: "mine" }, { to: PEER, body: "bad" }]);
  assert.deepEqual(results.map((one) => one.code), [0, 0, 403]);
  assert.deepEqual(client.got.map((one) => [one.seq, one.from, one.body]), [[1, ME, "one"], [2, ME, "two"]]);
  assert.equal(script.sent(2011)[0].messages[1].client_id, "mine");
});

test("a list of many pages is gathered, to its bound", async () => {
  const pages = { "": { friends: [1, 2], next_cursor: "b" }, b: { friends: [3, 4], next_cursor: "c" }, c: { friends: [5] } };
  const asked = [];
  const ask = async (cursor = "") => { asked.push(cursor); return pages[cursor]; };
  assert.deepEqual(await collect(ask, "friends"), [1, 2, 3, 4, 5]);
  assert.deepEqual(asked, ["", "b", "c"]);
  assert.deepEqual(await collect(ask, "friends", 3), [1, 2, 3]);
});

test("an edit, a reaction, its end and a recall change the message, its conversation and the unread number", async () => {
  const script = new Script();
  const client = make(script);
  await client.login(ME, "pw");
  let shown;
  client.on("message", (one) => { shown = one; });
  client.on("changed", (changed) => { shown = applyChange(shown, changed); });
  const change = (rev, kind, more) => script.socket.push(5003, { conversation_id: DIRECT, seq: 1, rev, change: kind, ...more });
  script.socket.push(5001, message(1));
  change(2, "edited", { body: "better", edited_at: 50 });
  assert.deepEqual([shown.body, shown.edited_at, client.conversation(DIRECT).last_message.body], ["better", 50, "better"]);
  change(3, "reacted", { reactions: { "👍": [ME, PEER] } });
  assert.deepEqual([shown.reactions, shown.body], [{ "👍": [ME, PEER] }, "better"]);
  change(4, "edited", { body: "best", edited_at: 60 });
  assert.deepEqual(shown.reactions, { "👍": [ME, PEER] }, "an edit says nothing of the reactions");
  change(5, "reacted", {});
  assert.equal("reactions" in shown, false);
  assert.equal(client.conversation(DIRECT).unread, 1);
  change(6, "recalled", { recalled: true });
  assert.deepEqual([shown.recalled, "body" in shown, client.conversation(DIRECT).unread], [true, false, 0]);
  assert.equal("body" in client.conversation(DIRECT).last_message, false, "what was recalled is kept nowhere");
});

test("a reaction that was taken back while away is told too", async () => {
  const store = new MemoryStore();
  store.set("state", { user_id: ME, cursor: "1", has_synced: true, positions: { [DIRECT]: [1, 1, 2, 0] } });
  const script = new Script({ 1002: () => login({ sync: { conversations: [entry(1, { last_rev: 3 })], next_cursor: "2", more: false } }),
    2014: { messages: [message(1, { rev: 3 })], last_rev: 3, more: false } });
  const client = make(script, { store });
  const changes = [];
  client.on("changed", (changed) => changes.push(changed));
  await client.login(ME, "pw");
  await settle();
  assert.equal(changes.length, 1);
  assert.equal("reactions" in applyChange({ ...message(1), reactions: { "👍": [PEER] } }, changes[0]), false);
});

test("a message that a bot is writing grows, and the stored one takes its place", async () => {
  const script = new Script();
  const client = make(script);
  await client.login(ME, "pw");
  const seen = [];
  client.on("stream", ({ text, state, isWhole }) => seen.push([text, state, isWhole]));
  const named = { conversation_id: DIRECT, message_id: "x", client_id: "bot.1", from: PEER };
  const append = (offset, text) => script.socket.push(5003, { ...named, change: "appended", offset, text });
  script.socket.push(5001, { ...named, sent_at: 1, type: "text", body: "", streaming: true });
  append(0, "😀a");
  append(2, "bc");
  assert.deepEqual(client.growing.map((one) => one.text), ["😀abc"]);
  append(9, "lost some");
  script.socket.push(5001, message(1, { client_id: "bot.1", body: "all of it" }));
  assert.deepEqual(seen, [["", "growing", true], ["😀a", "growing", true], ["😀abc", "growing", true], ["😀abclost some", "growing", false], ["😀abclost some", "done", false]]);
  assert.deepEqual(client.growing, []);
  assert.deepEqual(client.got.map((one) => one.body), ["all of it"]);
});

test("growing messages are bounded, end with their connection, and can be given up", async () => {
  const script = new Script();
  const client = make(script);
  await client.login(ME, "pw");
  const ended = [];
  client.on("stream", ({ client_id: id, state }) => { if (state === "aborted") ended.push(id); });
  const begin = (id) => script.socket.push(5001, { conversation_id: DIRECT, client_id: id, from: PEER, streaming: true });
  for (let index = 0; index <= LIMITS.streams; index += 1) begin(`b${index}`);
  assert.deepEqual([client.growing.length, ended], [LIMITS.streams, ["b0"]]);
  script.socket.push(5003, { conversation_id: DIRECT, client_id: "b5", from: PEER, change: "aborted" });
  assert.deepEqual(ended, ["b0", "b5"]);
  script.socket.push(5003, { conversation_id: DIRECT, client_id: "b6", from: PEER, change: "appended", offset: 0, text: "x".repeat(LIMITS.streamChars + 9) });
  assert.equal(client.growing.find((one) => one.client_id === "b6").text.length, LIMITS.streamChars);
  script.socket.drop();
  await waitFor(client, "state", ({ name }) => name === "online");
  assert.deepEqual(client.growing, []);
});

test("who is removed from a group, or leaves it, sees the conversation as left until they are back", async () => {
  const script = new Script({ 1002: () => login({ sync: { conversations: [entry(3, { conversation_id: GROUP, peer: undefined, group: "team" })], next_cursor: "1", more: false } }) });
  const client = make(script, { history: "new" });
  await client.login(ME, "pw");
  const tell = (event, more = {}) => script.socket.push(5008, { group_id: "team", event, by: PEER, ...more });
  const events = [];
  client.on("group", (body) => events.push(body.event));
  const left = () => client.conversation(GROUP).left ?? false;
  tell("removed", { user_ids: ["other"] });
  assert.equal(left(), false);
  tell("removed", { user_ids: [ME] });
  assert.equal(left(), true);
  tell("joined", { user_ids: [ME] });
  assert.equal(left(), false);
  tell("dismissed");
  assert.equal(left(), true);
  assert.deepEqual(events, ["removed", "removed", "joined", "dismissed"]);
});

test("a deleted conversation is gone until a message comes; settings and what happened elsewhere come by SYNC", async () => {
  let conversations = [entry(3, { muted: true, pinned: true })];
  const script = new Script({ 1002: () => login({ sync: { conversations, next_cursor: "1", more: false } }), 1003: () => login({ token: undefined, sync: { conversations, next_cursor: "2", more: false } }),
    2010: {}, 2013: { muted: false, pinned: true } });
  const client = make(script, { history: "new" });
  await client.login(ME, "pw");
  assert.deepEqual([client.conversation(DIRECT).muted, client.conversation(DIRECT).pinned], [true, true]);
  await client.setConversation(DIRECT, { muted: false });
  assert.deepEqual([client.conversation(DIRECT).muted, client.conversation(DIRECT).pinned], [undefined, true]);
  await client.deleteConversation(DIRECT);
  assert.deepEqual(client.conversations, []);
  script.socket.push(5001, message(4));
  assert.deepEqual(client.conversations.map((one) => [one.unread, one.last_message.seq]), [[1, 4]]);
  conversations = [entry(4, { hidden: true, last_message: null, unread: 0, last_rev: 4 })]; // deleted on another device
  script.socket.drop();
  await waitFor(client, "synced");
  assert.deepEqual(client.conversations, []);
});

test("each push comes as its event, with its body", async () => {
  const script = new Script();
  const client = make(script);
  await client.login(ME, "pw");
  const bodies = { 5005: ["typing", { conversation_id: DIRECT, user_id: PEER, on: true }], 5006: ["presence", { user_id: PEER, online: true, platforms: ["web"] }],
    5007: ["friend", { event: "requested", user_id: PEER, request_id: "r" }], 5008: ["group", { event: "created", group_id: "team", by: PEER, name: "Team" }],
    5009: ["notify", { topic: "news", body: { a: 1 } }] };
  for (const [command, [name, body]] of Object.entries(bodies)) {
    const came = waitFor(client, name);
    script.socket.push(Number(command), body);
    const { cmd: _cmd, ...got } = await came;
    assert.deepEqual(got, body);
  }
  const other = waitFor(client, "push");
  script.socket.push(5999, { x: 1 });
  assert.equal((await other).command, 5999);
});

test("what this device changes is told here too, since the server pushes it to the others alone", async () => {
  const script = new Script({ 2005: {}, 2006: { edited_at: 77 }, 2007: {}, 2002: { messages: [message(1, { rev: 3, reactions: { "👍": [PEER, ME] } })], first_seq: 1, last_seq: 1 } });
  const client = make(script);
  await client.login(ME, "pw");
  const told = [];
  client.on("changed", ({ change, by, message: now }) => told.push([change, by, now.body ?? now.reactions ?? now.recalled]));
  script.socket.push(5001, message(1));
  await client.edit(DIRECT, 1, "new");
  await client.react(DIRECT, 1, "👍");
  await client.recall(DIRECT, 1);
  assert.deepEqual(told, [["edited", ME, "new"], ["reacted", ME, "text 1"], ["recalled", ME, true]]);
  assert.equal(client.conversation(DIRECT).last_message.recalled, true);
});

test("a change that was overtaken changes nothing", () => {
  const now = { ...message(1), rev: 9, body: "newest" };
  assert.equal(applyChange(now, { conversation_id: DIRECT, seq: 1, change: "edited", message: { rev: 4, body: "older" } }), now);
});
