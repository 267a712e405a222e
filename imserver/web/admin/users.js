/** Users and their sessions: find, look, kick, disable. */

import { call } from "./api.js";
import { card, element, moment, table } from "./dom.js";

export class Users {
  constructor(node) {
    this.query = element("input", { type: "search", placeholder: "user id or nickname", "aria-label": "Find users", maxlength: "64" });
    this.list = element("div");
    this.detail = element("div");
    this.turn = 0;
    this.error = element("p", { class: "error", role: "alert" });
    const form = element("form", { class: "toolbar", on: { submit: (event) => { event.preventDefault(); this.load(); } } },
      this.query, element("button", { class: "primary", text: "Find" }));
    node.append(form, this.error, card("Users", this.list), element("p"), this.detail);
  }

  async attempt(work) {
    this.error.textContent = "";
    try {
      await work();
    } catch (error) {
      this.error.textContent = error.message;
    }
  }

  load(cursor = null) {
    return this.attempt(async () => {
      const fields = new URLSearchParams({ query: this.query.value, limit: "50" });
      if (cursor) fields.set("cursor", cursor);
      const turn = ++this.turn;
      const page = await call("GET", `/v1/admin/users?${fields}`);
      if (turn !== this.turn) return; // a newer question's answer is what counts
      const rows = page.users.map((user) => [
        element("button", { text: user.user_id, on: { click: () => this.open(user) } }), user.nickname || "", moment(user.created_at),
        user.online ? element("span", { class: "tag good", text: `${user.online} online` }) : "",
        user.disabled ? element("span", { class: "tag bad", text: "disabled" }) : (user.roles || []).join(", ")]);
      this.list.replaceChildren(table(["user", "nickname", "since", "online", "state"], rows));
      if (page.next_cursor) {
        this.list.append(element("button", { text: "Next page", on: { click: () => this.load(page.next_cursor) } }));
      }
    });
  }

  open(user) {
    return this.attempt(async () => {
      const path = `/v1/admin/users/${encodeURIComponent(user.user_id)}`;
      const { sessions } = await call("GET", `${path}/sessions`);
      const act = (what, body) => () => this.attempt(async () => {
        if (!confirm(`${what} ${user.user_id}?`)) return;
        await call("POST", `${path}/${body.path}`, body.fields);
        await this.load();
        await this.open({ ...user, ...(body.changes || {}) });
      });
      const rows = sessions.map((session) => [
        session.device_id || "", session.platform || "", session.address || "", moment(session.connected_at),
        element("span", { class: session.online ? "tag good" : "tag", text: session.online ? "online" : "away" }),
        element("button", { class: "danger", text: "Kick", on: { click: act("Kick this device of", { path: "kick", fields: { session_id: session.session_id } }) } })]);
      const toggle = user.disabled
        ? element("button", { text: "Enable", on: { click: act("Enable", { path: "disable", fields: { disabled: false }, changes: { disabled: false } }) } })
        : element("button", { class: "danger", text: "Disable", on: { click: act("Disable", { path: "disable", fields: { disabled: true }, changes: { disabled: true } }) } });
      this.detail.replaceChildren(card(`Devices of ${user.user_id}`,
        element("div", { class: "toolbar" }, element("button", { class: "danger", text: "Kick all", on: { click: act("Kick all devices of", { path: "kick", fields: {} }) } }), toggle),
        table(["device", "platform", "address", "connected", "state", ""], rows)));
    });
  }
}
