// A WebSocket whose other end is a script: no network, every frame seen. Each test says what the server answers.

export const ME = "me";
export const PEER = "peer";
export const DIRECT = "d:me:peer";

export const login = (more = {}) => ({ code: 0, user_id: ME, token: "t1", refresh_token: "r1", expires_at: Date.now() + 3_600_000, session_id: "s",
  heartbeat_ms: 30_000, server_time: Date.now(), sync: { conversations: [], next_cursor: "1", more: false }, ...more });

export const message = (seq, more = {}) => ({ conversation_id: DIRECT, seq, rev: seq, message_id: `m${seq}`, client_id: `peer.${seq}`, from: PEER, sent_at: 1000 + seq,
  type: "text", body: `text ${seq}`, ...more });

export const entry = (lastSeq, more = {}) => ({ conversation_id: DIRECT, last_seq: lastSeq, last_rev: lastSeq, read_seq: 0, delivered_seq: 0, unread: lastSeq,
  last_message: lastSeq ? message(lastSeq) : null, peer: PEER, ...more });

/** The server's side: `answers[cmd]` is an answer or a function of (request, socket); without one the request stays open. */
export class Script {
  constructor(answers = {}) {
    this.sockets = [];
    this.frames = []; // every frame that the client sent, as {socket, ...frame}
    this.answers = { 1: { code: 0 }, 4: { code: 0, heartbeat_ms: 30_000 }, 1002: () => login(), 1003: () => login({ token: undefined, refresh_token: undefined }), 5002: { code: 0 }, ...answers };
    this.isRefusing = false;
    this.waiters = [];
    const script = this;
    this.WebSocket = class {
      constructor(url, protocols) {
        Object.assign(this, { url, protocols, isOpen: false });
        script.sockets.push(this);
        setTimeout(() => {
          if (script.isRefusing) return this.onclose?.({ code: 1006, reason: "" });
          this.isOpen = true;
          this.onopen?.({});
        });
      }
      send(text) {
        if (!this.isOpen) throw new Error("not open");
        const frame = JSON.parse(text);
        script.frames.push({ socket: this, ...frame });
        let answer = script.answers[frame.cmd];
        if (typeof answer === "function") answer = answer(frame, this);
        if (answer && frame.rid) setTimeout(() => this.push(frame.cmd, { rid: frame.rid, code: 0, ...answer }));
        script.waiters = script.waiters.filter((waiter) => !waiter());
      }
      push(cmd, body) { if (this.isOpen) this.onmessage?.({ data: JSON.stringify({ cmd, ...body }) }); }
      close() { this.drop(1000); }
      drop(code = 1006) {
        if (!this.isOpen) return;
        this.isOpen = false;
        setTimeout(() => this.onclose?.({ code, reason: "" }));
      }
    };
  }

  get socket() { return this.sockets.at(-1); }
  sent(cmd) { return this.frames.filter((frame) => frame.cmd === cmd); }

  /** Wait until the client has sent so many frames of a command. */
  async waitSent(cmd, count = 1) {
    const isThere = () => this.sent(cmd).length >= count;
    if (!isThere()) await new Promise((resolve) => this.waiters.push(() => isThere() && (resolve(), true)));
    return this.sent(cmd);
  }
}

/** Wait for an event of a client that `test` takes. */
export const waitFor = (client, name, test = () => true) => new Promise((resolve) => {
  const off = client.on(name, (detail) => { if (test(detail)) { off(); resolve(detail); } });
});

/** Let everything that is due happen. */
export const settle = async () => { for (let i = 0; i < 5; i += 1) await new Promise((resolve) => setTimeout(resolve, 2)); };
