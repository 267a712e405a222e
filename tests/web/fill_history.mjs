// Writes COUNT messages "number 0", "number 1", … from one user to another. node fill_history.mjs IMSERVER_JS URL FROM PASSWORD TO COUNT
const [imserver, url, from, password, to, count] = process.argv.slice(2);
const { Command, ImClient } = await import(imserver);
const PAGE = 100;
const client = new ImClient({ url });
await client.login(from, password);
for (let first = 0; first < Number(count); first += PAGE) {
  const messages = Array.from({ length: PAGE }, (_none, index) => ({ to, client_id: `fill.${first + index}`, body: `number ${first + index}` }));
  await client.request(Command.SEND_BATCH, { messages }, { isRepeatable: true, timeoutMs: 60_000 }); // asked again while the rate limit says so
}
client.close();
