// Which channel the client reads, and how it gets one.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import type { Fault, Megaphone } from "../src/index.js";
import { begin, client, frames, nextAfter, refuse, serve, take, text, until } from "./hostile.js";

const options = { transports: ["ndjson"] as const };

test("use goes on with another channel while the function for the last one is still running", async (t) => {
  const { url } = await serve(t, ({ response, after }) => {
    begin(response, "ndjson");
    response.write(frames.ndjson.frame(text(nextAfter(after))));
  });
  let fail!: (error: Error) => void;
  let called = false;
  const megaphone = client(t, url, options, () => {
    called = true;
    return new Promise((_, reject) => (fail = reject));
  });
  megaphone.on("error", assert.fail);
  const messages = megaphone.messages("s");
  await until("the function is called", () => called);
  megaphone.use("main.other");
  assert.equal((await messages.next()).value.body, 0);
  fail(new Error("nobody waits for this anymore"));
});

for (const [what, end] of [
  ["use", (megaphone: Megaphone) => megaphone.use("main.other")],
  ["a stall", () => {}],
] as const) {
  test(`a response that does not end when it is aborted delays nothing: ${what}`, async (t) => {
    let reads = 0;
    let cancelled = false;
    const megaphone = client(t, "http://localhost", {
      ...options,
      silence: what === "use" ? 60_000 : 100,
      fetch: async () => {
        const n = reads++;
        const body = new ReadableStream({
          start: (controller) => controller.enqueue(new TextEncoder().encode(`${text(n)}\n`)),
          cancel: () => void (cancelled = true),
        });
        return new Response(body, { headers: { "Content-Type": frames.ndjson.type } });
      },
    });
    const messages = megaphone.messages("s");
    assert.equal((await messages.next()).value.body, 0);
    end(megaphone);
    assert.equal((await messages.next()).value.body, 1);
    assert.ok(cancelled);
  });
}

test("if a channel is gone after a long outage, the next one follows soon", async (t) => {
  let away = false;
  let created = 0;
  const { url } = await serve(t, ({ response, address, after }) => {
    if (away) {
      return response.destroy();
    }
    if (address !== `main.c${created}` || (address === "main.c1" && after)) {
      return refuse(response, 404, "NOT_FOUND");
    }
    begin(response, "ndjson");
    response.write(frames.ndjson.frame(text(created, created)));
    if (created === 1) {
      away = true;
      setTimeout(() => response.destroy(), 20);
    }
  });
  const megaphone = client(t, url, { ...options, backoff: [20, 60_000] }, () => `main.c${++created}`);
  let faults = 0;
  megaphone.on("error", () => (faults += 1));
  const messages = megaphone.messages("s");
  await until("it has waited some seconds", () => faults === 8);
  away = false;
  const gone = new Promise((resolve) => megaphone.on("gone", resolve));
  await gone;
  const began = performance.now();
  assert.equal((await messages.next()).value.body, 1);
  assert.equal((await messages.next()).value.body, 2);
  assert.ok(performance.now() - began < 2000, `${performance.now() - began} ms`);
});

test("a signal that outlives its clients does not keep them in memory", async (t) => {
  const { url } = await serve(t, ({ response, after }) => {
    begin(response, "ndjson");
    response.write(frames.ndjson.frame(text(nextAfter(after))));
  });
  const { signal } = new AbortController();
  const megaphone = client(t, url, { ...options, signal });
  await take(megaphone, 1);
  megaphone.close();
  await until("the signal has no listener", () => getEventListeners(signal, "abort").length === 0);
});

for (const address of [".", ".."]) {
  test(`the address ${address} is none: a URL would lose it`, async (t) => {
    const urls: string[] = [];
    const { url } = await serve(t, ({ request, response }) => {
      urls.push(request.url!);
      refuse(response, 404, "NOT_FOUND");
    });
    const megaphone = client(t, `${url}/app`, options, address);
    const error = new Promise<Fault>((resolve) => megaphone.once("error", resolve));
    megaphone.subscribe(() => {});
    assert.equal((await error).code, "NO_CHANNEL");
    assert.deepEqual(urls, []);
  });
}
