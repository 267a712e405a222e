// Two clients of imserver.js and a real server that dies meanwhile; prints what they saw as JSON.
// node client_server.mjs IMSERVER_JS URL COUNT
const [imserver, url, countText] = process.argv.slice(2);
const { ImClient, MemoryStore } = await import(imserver);
const COUNT = Number(countText);
const PASSWORD = "correct horse 7 battery";

const sockets = new Set();
class Cuttable extends WebSocket { constructor(...all) { super(...all); sockets.add(this); this.addEventListener("close", () => sockets.delete(this)); } }
const make = (store) => new ImClient({ url, WebSocket: Cuttable, store, history: "all", backoff: { minMs: 20, maxMs: 300 }, timeoutMs: 60_000 });

const stores = { anna: new MemoryStore(), ben: new MemoryStore() };
const seen = { anna: [], ben: [] };
const listen = (name, client) => client.on("message", (message) => seen[name].push([message.seq, message.from, message.body]));

const anna = make(stores.anna);
let ben = make(stores.ben);
await anna.register("anna", PASSWORD);
await ben.register("ben", PASSWORD);
await anna.login("anna", PASSWORD);
await ben.login("ben", PASSWORD);
listen("anna", anna);
listen("ben", ben);
console.log("ready"); // from here on the server is killed and started again, as the test likes

// Both write; every few messages a connection is cut, and once Ben's page is closed and opened again.
const sends = [];
for (let index = 0; index < COUNT; index += 1) {
  sends.push(anna.send("ben", `a${index}`));
  sends.push(ben.send("anna", `b${index}`).catch((error) => { if (error.error !== "ended") throw error; }));
  if (index % 25 === 12) for (const socket of sockets) if (Math.random() < 0.5) socket.close();
  if (index === Math.floor(COUNT / 2)) {
    ben.close();
    ben = make(stores.ben);
    listen("ben", ben);
    await ben.restore();
  }
  await new Promise((resolve) => setTimeout(resolve, 15));
}
await Promise.all(sends);
const total = 2 * COUNT;
const deadline = Date.now() + 60_000;
while (Date.now() < deadline && (seen.anna.length < total || seen.ben.length < total)) await new Promise((resolve) => setTimeout(resolve, 20));
const [entry] = ben.conversations;
anna.markRead(entry.conversation_id);
ben.markRead(entry.conversation_id);
const hasHeard = (client) => client.conversation(entry.conversation_id).peer_read_seq >= total; // so the server knows of it, too
while (Date.now() < deadline && !(hasHeard(anna) && hasHeard(ben))) await new Promise((resolve) => setTimeout(resolve, 20));
const fresh = make(new MemoryStore());
await fresh.login("ben", PASSWORD);
console.log(JSON.stringify({
  seen, outgoing: [anna.outgoing.length, ben.outgoing.length], unread: [anna.conversations[0].unread, ben.conversations[0].unread],
  unreadAtServer: fresh.conversations[0].unread, peerRead: ben.conversations[0].peer_read_seq,
}));
for (const client of [anna, ben, fresh]) client.close();
