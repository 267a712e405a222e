// Runs the examples of the client's reference against a real server, one after another. node client_examples.mjs IMSERVER_JS URL PAGE
import { readFile } from "node:fs/promises";

const [imserver, url, page] = process.argv.slice(2);
const library = await import(imserver);
const client = new library.ImClient({ url });
client.on("problem", ({ error }) => { throw error; });
const names = { client, ...library };
const blocks = [...(await readFile(page, "utf8")).matchAll(/^```js\n([\s\S]*?)^```$/gm)].map((found) => found[1].replace(/^import .*\n/gm, ""));
const AsyncFunction = (async () => {}).constructor;
const run = (block) => new AsyncFunction(...Object.keys(names), block)(...Object.values(names));

// The session's example makes the user that all others use; they name a group, which is made first.
const first = blocks.find((block) => block.includes("client.login("));
await run(first);
await client.createGroup("Team", { groupId: "team", members: ["ben"] });
for (const block of blocks) {
  if (block === first) continue;
  try { await run(block); } catch (error) { console.error(`${error.message} in:\n${block}`); process.exitCode = 1; }
}
console.log(`${blocks.length} examples`);
client.close();
