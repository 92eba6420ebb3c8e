// Functions of the application that never answer. The client says which one it was, and goes on.

import assert from "node:assert/strict";
import { test } from "node:test";

import type { Fault, Options } from "../src/index.js";
import { Producer } from "../src/producer.js";
import { seal, unseal } from "../src/sealed.js";
import { begin, client, frames, nextAfter, serve, take, text, until } from "./hostile.js";

const forever = new Promise<never>(() => {});
const { frame } = frames.ndjson;
const patient = { transports: ["ndjson"], patience: 50 } as const;

for (const [what, named] of Object.entries({
  channel: /function channel.* 0\.05 s/,
  headers: /headers.* 0\.05 s/,
  query: /query.* 0\.05 s/,
  protocols: /protocols.* 0\.05 s/,
})) {
  test(`a function for ${what} that hangs is an error that names it, and is asked again`, async (t) => {
    const { url } = await serve(t, ({ response, after }) => {
      begin(response, "ndjson");
      response.write(frame(text(nextAfter(after))));
    });
    let calls = 0;
    const answer = <Value>(mine: string, value: Value) => (mine === what && ++calls === 1 ? forever : value);
    const options: Options = {
      ...patient,
      headers: () => answer("headers", {}),
      query: () => answer("query", {}),
      protocols: () => answer("protocols", "p"),
    };
    const megaphone = client(t, url, options, () => answer("channel", "main.c"));
    const errors: Fault[] = [];
    megaphone.on("error", (error) => errors.push(error));
    assert.deepEqual(await take(megaphone, 1), [0]);
    assert.equal(errors.length, 1);
    assert.equal(errors[0]!.code, "TIMEOUT");
    assert.match(errors[0]!.message, named);
    assert.equal(calls, 2);
  });
}

for (const [what, options, named] of [
  ["decode", { decode: ({ body }) => (body === 0 ? forever : body) }, /decode.* 0\.05 s/],
  [
    "a schema",
    { schemas: { s: { "~standard": { version: 1, vendor: "", validate: (value) => (value === 0 ? forever : { value }) } } } },
    /schemas.* 0\.05 s/,
  ],
] as [string, Options, RegExp][]) {
  test(`${what} that hangs drops the message with an error that names it, and the next one comes`, async (t) => {
    const { url } = await serve(t, ({ response }) => {
      begin(response, "ndjson");
      response.write(frame(text(0)) + frame(text(1)));
    });
    const megaphone = client(t, url, { ...patient, ...options });
    const errors: Fault[] = [];
    megaphone.on("error", (error) => errors.push(error));
    assert.deepEqual(await take(megaphone, 1), [1]);
    assert.equal(errors[0]!.code, "INVALID");
    assert.equal(errors[0]!.received!.eid, "e0");
    assert.match(errors[0]!.message, named);
  });
}

test("a key of a sealed body that never comes is an error that names it", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const key = new Uint8Array(32);
  const body = await seal("hello", { key, kid: "2026" });
  const opened = assert.rejects(async () => unseal({ key: () => forever })({ sid: "s", body }), /the function key.* s\b/);
  t.mock.timers.tick(60_000);
  await opened;
});

test("a fetch that ignores its signal delays nothing", async (t) => {
  let calls = 0;
  const megaphone = client(t, "http://localhost", {
    transports: ["ndjson"],
    timeout: 50,
    fetch: async () =>
      ++calls === 1 ? forever : new Response(frame(text(0)), { headers: { "Content-Type": frames.ndjson.type } }),
  });
  const errors: Fault[] = [];
  megaphone.on("error", (error) => errors.push(error));
  const messages = megaphone.messages("s");
  await until("it has an error", () => errors.length > 0);
  assert.equal(errors[0]!.code, "NO_START");
  assert.equal((await messages.next()).value.body, 0);
});

test("a producer's function for headers that hangs is an error that names it", async () => {
  const producer = new Producer("http://127.0.0.1:1", { headers: () => forever, timeout: 50 });
  for (const call of [() => producer.create(), () => producer.ingest([])]) {
    await assert.rejects(call, { code: "TIMEOUT", message: /the function headers.* 0\.05 s/ });
  }
});
