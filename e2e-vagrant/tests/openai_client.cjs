// SPDX-License-Identifier: Apache-2.0
// OpenAI's own client against a TrustBridge endpoint: node openai_client.cjs BASE_URL KEY POOR_KEY. Prints one JSON object of what it saw.
"use strict";
// By the fetch of Node.js, as later versions of the client do: the one of node-fetch takes each streamed answer over a kept connection for broken
// with Debian 12's Node.js 18.20.
require("openai/shims/web");
const OpenAI = require("openai");
const [baseURL, apiKey, poorKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60000 });
const messages = [{ role: "user", content: "Say something." }];
const ask = { model: "m", messages, max_tokens: 24, temperature: 0, seed: 1 };

async function read(stream) {
  const seen = { text: "", chunks: 0, usage: null, empty: 0 };
  for await (const chunk of stream) {
    seen.chunks++;
    seen.empty += chunk.choices.length === 0;
    seen.text += chunk.choices[0]?.delta?.content ?? "";
    seen.usage = chunk.usage ?? seen.usage;
  }
  return seen;
}

async function failure(promise) {
  try {
    await promise;
    return null;
  } catch (e) {
    return { name: e.constructor.name, status: e.status ?? null, code: e.code ?? null, retry: e.headers?.["x-should-retry"] ?? null };
  }
}

async function aborted() {
  // So many that it is not over before this process gets to its turn.
  const stream = await client.chat.completions.create({ ...ask, max_tokens: 8000, stream: true, ignore_eos: true });
  let chunks = 0;
  for await (const chunk of stream) {
    chunks += Boolean(chunk.choices[0]?.delta?.content);
    if (chunks === 5) break; // breaking out aborts the request
  }
  return { chunks, signalled: stream.controller.signal.aborted };
}

async function main() {
  const out = {};
  const chat = await client.chat.completions.create(ask);
  out.chat = { text: chat.choices[0].message.content, usage: chat.usage };
  out.stream = await read(await client.chat.completions.create({ ...ask, stream: true }));
  out.stream_usage = await read(await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }));
  out.many = (await Promise.all(Array.from({ length: 6 }, () => client.chat.completions.create({ ...ask, max_tokens: 4 })))).map((c) => c.usage.completion_tokens);
  out.models = (await client.models.list()).data.length;
  out.abort = await aborted();
  out.wrong_key = await failure(new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).models.list());
  out.unknown_route = await failure(client.post("/nowhere", { body: {} }));
  out.bad_request = await failure(client.chat.completions.create({ ...ask, messages: "no list" }));
  let asked = 0;
  const counted = (...request) => (asked++, fetch(...request));
  const poor = new OpenAI({ baseURL, apiKey: poorKey, maxRetries: 2, fetch: counted });
  out.no_budget = await failure(poor.chat.completions.create({ ...ask, max_tokens: 100000 }));
  out.no_budget_asked = asked;
  console.log(JSON.stringify(out));
}

main().catch((e) => { console.error(e); process.exit(1); });
