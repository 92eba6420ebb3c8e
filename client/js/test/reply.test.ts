// What the client says about replies that are not from Megaphone, and about its state.

import assert from "node:assert/strict";
import type { IncomingMessage, ServerResponse } from "node:http";
import { test, type TestContext } from "node:test";
import { WebSocket } from "ws";

import { Megaphone, type Fault, type State } from "../src/index.js";
import { begin, client, frames, nextAfter, refuse, serve, sleep, text, until } from "./hostile.js";

const foreign: Record<string, (response: ServerResponse, request: IncomingMessage) => void> = {
  "a page of a single-page app": (response) =>
    response.writeHead(200, { "Content-Type": "text/html" }).end("<!doctype html><title>App</title>"),
  "a page that does not end": (response) => {
    response.writeHead(200, { "Content-Type": "text/html" }).flushHeaders();
    response.write("<!doctype html>");
  },
  "an empty reply": (response) => response.writeHead(200).end(),
  "no content": (response) => response.writeHead(204).end(),
  "JSON of another service": (response) =>
    response.writeHead(200, { "Content-Type": "application/json" }).end('{"hello":"world"}'),
  "the page of a wrong path": (response) =>
    response.writeHead(404, { "Content-Type": "text/html" }).end("<h1>Not found</h1>"),
  "a wrong path of an API": (response) =>
    response.writeHead(404, { "Content-Type": "text/plain" }).end('{"error":"no such thing"}'),
};

for (const transport of ["websocket", "sse", "ndjson", "poll"] as const) {
  for (const [what, reply] of Object.entries(foreign)) {
    test(`${transport}: ${what} is an error at once, and never open`, async (t) => {
      const { url } = await serve(t, ({ response, request }) => reply(response, request));
      const megaphone = client(t, `${url}/wrong/?token=secret`, { WebSocket, transports: [transport] }, "main.secret");
      const states: State[] = [];
      megaphone.on("state", (state) => states.push(state));
      megaphone.on("gone", () => assert.fail("this says nothing about the channel"));
      const fault = new Promise<Fault>((resolve) => megaphone.once("error", resolve));
      megaphone.subscribe(() => assert.fail());
      const began = performance.now();
      const { code, message, status } = await fault;
      assert.ok(performance.now() - began < 5000);
      assert.equal(code, "HTTP");
      assert.ok(status && message.includes(String(status)), message);
      assert.ok(message.includes(`${url}/wrong/read/`) && message.includes("base URL"), message);
      assert.ok(!message.includes("secret"), message);
      assert.deepEqual(states, ["connecting", "waiting"]);
    });
  }
}

test("sse: an event stream without a byte is an error, and never open", async (t) => {
  const { url } = await serve(t, ({ response }) =>
    response.writeHead(200, { "Content-Type": "text/event-stream" }).end(),
  );
  const megaphone = client(t, url, { transports: ["sse"] });
  megaphone.on("state", (state) => assert.notEqual(state, "open"));
  const fault = new Promise<Fault>((resolve) => megaphone.once("error", resolve));
  megaphone.subscribe(() => assert.fail());
  assert.equal((await fault).code, "HTTP");
});

test("the default transports: a page of a single-page app is an error at once", async (t) => {
  const { url, cursors } = await serve(t, ({ response }) =>
    response.writeHead(200, { "Content-Type": "text/html" }).end("<!doctype html>"),
  );
  const megaphone = client(t, url, { WebSocket });
  const fault = new Promise<Fault>((resolve) => megaphone.once("error", resolve));
  megaphone.subscribe(() => assert.fail());
  assert.equal((await fault).code, "HTTP");
  assert.equal(cursors.length, 1);
});

test("a page in place of a stream that worked means that the channel is gone", async (t) => {
  // A proxy may put a page of its own in the place of every 404.
  const { url } = await serve(t, ({ response, after, address }) => {
    if (after !== "" || address !== "main.c1") {
      return response.writeHead(404, { "Content-Type": "text/html" }).end("<h1>Not found</h1>");
    }
    begin(response, "ndjson");
    response.end(frames.ndjson.frame(text(nextAfter(after))));
  });
  let created = 0;
  const megaphone = client(t, url, { transports: ["ndjson"] }, () => `main.c${++created}`);
  let gone = 0;
  megaphone.on("gone", () => (gone += 1));
  megaphone.subscribe(() => {});
  await until("it has asked for another channel", () => created >= 2);
  assert.equal(gone, 1);
});

test("while the base URL is wrong, the client keeps the cursor that it was given", async (t) => {
  let wrong = true;
  const { url, cursors } = await serve(t, ({ response, after }) => {
    if (wrong) {
      wrong = false; // as if the operator has repaired the site
      return response.writeHead(404, { "Content-Type": "text/html" }).end("<h1>Not found</h1>");
    }
    begin(response, "ndjson");
    response.write(frames.ndjson.frame(text(nextAfter(after))));
  });
  const megaphone = client(t, url, { transports: ["ndjson"], after: "e41" });
  assert.equal((await megaphone.messages("s").next()).value.body, 42);
  assert.deepEqual(cursors, ["e41", "e41"]);
});

test("the states between faults, reads and channels", async (t) => {
  let created = 0;
  const { url } = await serve(t, ({ response, number }) => {
    if (number === 0) {
      return response.destroy();
    }
    if (number === 2) {
      return refuse(response, 404, "NOT_FOUND");
    }
    begin(response, "ndjson");
    response.write(frames.ndjson.frame(text(number)));
    if (number === 1) {
      response.end();
    }
  });
  const megaphone = client(t, url, { transports: ["ndjson"] }, () => `main.c${++created}`);
  const states: State[] = [];
  megaphone.on("state", (state) => states.push(state));
  const bodies: number[] = [];
  megaphone.subscribe(({ body }) => bodies.push(body));
  await until("it reads the next channel", () => bodies.length === 2);
  assert.deepEqual(states, ["connecting", "waiting", "connecting", "open", "gone", "connecting", "open"]);
});

/** Replaces console.error until the test ends. */
function printed(t: TestContext): unknown[] {
  const lines: unknown[] = [];
  t.mock.method(console, "error", (line: unknown) => lines.push(line));
  return lines;
}

test("an error that nobody listens to is printed once", async (t) => {
  const lines = printed(t);
  let status = 500;
  const { url, cursors } = await serve(t, ({ response }) => refuse(response, status, `S${status}`));
  const megaphone = new Megaphone(url, "main.c", { transports: ["ndjson"], backoff: [1, 2] });
  t.after(() => megaphone.close());
  megaphone.subscribe(() => {});
  await until("it has tried often", () => cursors.length >= 5);
  assert.equal(lines.length, 1);
  assert.equal((lines[0] as Fault).code, "S500");
  status = 503;
  await until("another error is printed", () => lines.length === 2);
});

test("an error with a listener is not printed", async (t) => {
  const lines = printed(t);
  const { url } = await serve(t, ({ response }) => refuse(response, 500, "INTERNAL_SERVER_ERROR"));
  const megaphone = new Megaphone(url, "main.c", { transports: ["ndjson"], backoff: [1, 2] });
  t.after(() => megaphone.close());
  let errors = 0;
  megaphone.on("error", () => (errors += 1));
  megaphone.subscribe(() => {});
  await until("it has tried", () => errors >= 3);
  await sleep(1);
  assert.deepEqual(lines, []);
});
