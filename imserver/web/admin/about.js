/** What runs: the plugins, and the configuration with its secrets masked. */

import { call } from "./api.js";
import { card, element, table } from "./dom.js";

export async function showPlugins(node) {
  const { plugins } = await call("GET", "/v1/admin/plugins");
  node.replaceChildren(...plugins.flatMap((plugin) => [
    card(`${plugin.name} — ${plugin.summary}`, element("p", {}, element("code", { text: plugin.module })),
      table(["what", "name", "who may"], [
        ...plugin.commands.map((command) => [String(command.command), command.name, command.allow]),
        ...plugin.routes.map((route) => [route.method, route.path, route.allow])])),
    element("p")]));
}

export async function showConfig(node) {
  const { file, config } = await call("GET", "/v1/admin/config");
  const lines = [];
  for (const [section, keys] of Object.entries(config)) {
    lines.push(`[${section}]`);
    for (const [key, value] of Object.entries(keys)) lines.push(`${key} = ${JSON.stringify(value)}`);
    lines.push("");
  }
  node.replaceChildren(card(file || "the defaults, without a file", element("pre", { text: lines.join("\n") })));
}
