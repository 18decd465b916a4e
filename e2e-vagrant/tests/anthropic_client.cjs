// SPDX-License-Identifier: Apache-2.0
// Anthropic's own client against a TrustBridge endpoint: node anthropic_client.cjs BASE_URL KEY POOR_KEY. Prints one JSON object of what it saw.
"use strict";
// By the fetch of Node.js, as later versions of the client do: the one of node-fetch takes each streamed answer over a kept connection for broken
// with Debian 12's Node.js 18.20.
require("@anthropic-ai/sdk/shims/web");
const Anthropic = require("@anthropic-ai/sdk");
const [baseURL, apiKey, poorKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0, timeout: 60000 });
const ask = { model: "m", messages: [{ role: "user", content: "Say something." }], max_tokens: 24, temperature: 0 };

async function failure(promise) {
  try {
    await promise;
    return null;
  } catch (e) {
    return { name: e.constructor.name, status: e.status ?? null, retry: e.headers?.["x-should-retry"] ?? null, message: String(e.message) };
  }
}

async function streamed() {
  const seen = { text: "", events: {} };
  const stream = client.messages.stream(ask);
  for await (const event of stream) {
    seen.events[event.type] = (seen.events[event.type] ?? 0) + 1;
    seen.text += event.delta?.text ?? "";
  }
  seen.usage = (await stream.finalMessage()).usage;
  return seen;
}

async function aborted() {
  const stream = await client.messages.create({ ...ask, max_tokens: 900, stream: true, ignore_eos: true });
  let events = 0;
  for await (const event of stream) {
    events += event.type === "content_block_delta";
    if (events === 5) break; // breaking out aborts the request
  }
  return { events, signalled: stream.controller.signal.aborted };
}

async function main() {
  const out = {};
  const message = await client.messages.create(ask);
  out.message = { text: message.content.map((c) => c.text ?? "").join(""), usage: message.usage, type: message.type };
  out.stream = await streamed();
  out.many = (await Promise.all(Array.from({ length: 6 }, () => client.messages.create({ ...ask, max_tokens: 4 })))).map((m) => m.usage.output_tokens);
  out.abort = await aborted();
  out.bearer = (await new Anthropic({ baseURL, apiKey: null, authToken: apiKey, maxRetries: 0 }).messages.create(ask)).usage;
  out.wrong_key = await failure(new Anthropic({ baseURL, apiKey: "wrong", maxRetries: 0 }).messages.create(ask));
  out.two_keys = await failure(new Anthropic({ baseURL, apiKey, maxRetries: 0, defaultHeaders: { Authorization: "Bearer other" } }).messages.create(ask));
  out.unknown_route = await failure(client.post("/v2/nowhere", { body: {} }));
  let asked = 0;
  const counted = (...request) => (asked++, fetch(...request));
  const poor = new Anthropic({ baseURL, apiKey: poorKey, maxRetries: 2, fetch: counted });
  out.no_budget = await failure(poor.messages.create({ ...ask, max_tokens: 9000 }));
  out.no_budget_asked = asked;
  console.log(JSON.stringify(out));
}

main().catch((e) => { console.error(e); process.exit(1); });
