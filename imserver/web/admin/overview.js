/** Live figures: what /v1/admin/stats says each second, as rates. */

import { call } from "./api.js";
import { Chart } from "./chart.js";
import { card, element, moment, shown, table } from "./dom.js";

const INTERVAL_MS = 1000;

function perSecond(now, before, count) {
  const seconds = (now.time - before.time) / 1000;
  return seconds > 0 ? Math.max(0, (count(now) - count(before)) / seconds) : 0;
}

const requestsOf = (stats) => stats.shards.reduce((sum, shard) => sum + shard.requests, 0);
const errorsOf = (command) => Object.values(command.errors).reduce((sum, count) => sum + count, 0);

export class Overview {
  /** @param {HTMLElement} node  @param {(error: Error|null, stats: object|null) => void} report told of each look */
  constructor(node, report) {
    this.report = report;
    this.before = null;
    this.timer = null;
    this.looking = null;
    this.tiles = element("div", { class: "tiles" });
    this.connections = new Chart("Connections", ["open", "users online"], "");
    this.throughput = new Chart("Throughput", ["messages", "requests"], "/s");
    this.latency = new Chart("Commit latency", ["median", "99 %"], "ms");
    this.commands = element("div");
    this.shards = element("div");
    node.append(this.tiles, element("div", { class: "grid" }, this.connections.node, this.throughput.node, this.latency.node),
      card("Commands", this.commands), element("p"), card("Shards", this.shards));
  }

  start() {
    this.stop();
    const look = async () => {
      try {
        const stats = await call("GET", "/v1/admin/stats");
        this.show(stats);
        this.report(null, stats);
      } catch (error) {
        this.report(error, null);
      }
      if (this.timer !== null) this.timer = setTimeout(() => { this.looking = look(); }, INTERVAL_MS);
    };
    this.timer = setTimeout(() => { this.looking = look(); }, 0);
  }

  /** Resolves when the last look has its answer. */
  async stop() {
    clearTimeout(this.timer);
    this.timer = null;
    await this.looking;
  }

  show(stats) {
    const restarted = this.before !== null && this.before.started_at !== stats.started_at;
    const before = this.before === null || restarted ? stats : this.before;
    const rate = (count) => perSecond(stats, before, count);
    const messages = rate((at) => at.messages);
    const requests = rate(requestsOf);
    this.connections.push([stats.connections, stats.users_online]);
    this.throughput.push([messages, requests]);
    this.latency.push([stats.commit_ms.p50, stats.commit_ms.p99]);
    const minutes = Math.floor((stats.time - stats.started_at) / 60000);
    const tile = (value, label) => element("div", { class: "card tile" }, element("b", { text: value }), element("span", { text: label }));
    this.tiles.replaceChildren(
      tile(shown(stats.connections), "connections"), tile(shown(stats.users_online), "users online"),
      tile(`${shown(messages)}/s`, "messages"), tile(shown(stats.messages), "messages since the start"),
      tile(shown(stats.commit_failures), "failed commits"),
      tile(minutes < 60 ? `${minutes} min` : minutes < 2880 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} d`, "up"),
      ...(stats.certificate_expires_at ? [tile(new Date(stats.certificate_expires_at).toLocaleDateString(), "certificate ends")] : []));
    const old = new Map(before.commands.map((command) => [command.command, command]));
    this.commands.replaceChildren(table(["command", "#requests/s", "#requests", "#errors", "by code"], stats.commands.map((command) => {
      const last = old.get(command.command);
      const seconds = (stats.time - before.time) / 1000;
      const pace = last && seconds > 0 ? (command.requests - last.requests) / seconds : 0;
      const codes = Object.entries(command.errors).map(([code, count]) => `${code}: ${shown(count)}`).join(", ");
      return [`${command.command} ${command.name}`, shown(pace), shown(command.requests), shown(errorsOf(command)), codes];
    })));
    this.shards.replaceChildren(table(["shard", "#sessions", "#HTTP connections", "#requests", "#last seen, ms ago"], stats.shards.map(
      (shard) => [shard.index, shown(shard.sessions), shown(shard.http_connections), shown(shard.requests), shown(shard.lag_ms)])));
    this.tiles.title = `started ${moment(stats.started_at)}`;
    this.before = stats;
  }
}
