// Listeners of events, debug logging, ends of streams, and messages that were missed.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket } from "ws";

import type { End } from "../src/index.js";
import { begin, client, frames, httpTransports, nextAfter, serve, text, until } from "./hostile.js";

const ndjson = { transports: ["ndjson"] as const };
const line = (fields: object) => JSON.stringify({ sid: "s", ts: "2026-01-01T00:00:00Z", ...fields });

test("once hears one event, off removes what on and once have added", async (t) => {
  const { url } = await serve(t, ({ response, after }) => {
    begin(response, "ndjson");
    response.end(frames.ndjson.frame(text(nextAfter(after))));
  });
  const megaphone = client(t, url, ndjson);
  const heard: string[] = [];
  const on = (state: string) => heard.push(`on ${state}`);
  megaphone.on("state", on);
  megaphone.once("state", (state) => heard.push(`once ${state}`));
  megaphone.once("state", assert.fail);
  megaphone.off("state", assert.fail as () => void);
  megaphone.on("state", assert.fail)();
  const removed = () => heard.push("removed by another listener");
  megaphone.once("state", () => megaphone.off("state", removed));
  megaphone.on("state", removed); // hears the event during which it is removed, and no other
  megaphone.subscribe("s", () => {});
  assert.deepEqual(heard, ["on connecting", "once connecting", "removed by another listener"]);
  await until("it is open", () => heard.length === 4);
  assert.equal(heard[3], "on open");
  megaphone.off("state", on);
  megaphone.close();
  assert.equal(heard.length, 4);
});

test("debug logs what happens to a function or to the console", async (t) => {
  const { url } = await serve(t, ({ response, after }) => {
    begin(response, "ndjson");
    response.end(frames.ndjson.frame(text(nextAfter(after), "private")));
  });
  const lines: string[] = [];
  const printed = t.mock.method(console, "debug", () => {});
  client(t, url, { ...ndjson, debug: (what, detail) => lines.push(`${what} ${detail}`) }).subscribe(() => {});
  client(t, url, { ...ndjson, debug: true }).subscribe(() => {});
  await until("messages are logged", () => lines.includes("message s") && printed.mock.callCount() > 3);
  assert.deepEqual(lines.slice(0, 4), ["state connecting", "read ndjson", "state open", "message s"]);
  assert.ok(!lines.some((line) => line.includes("private") || line.includes("main.c")), String(lines));
  assert.equal(printed.mock.calls[0]!.arguments.join(" "), "megaphone state connecting");
});

test("a debug function that throws stops nothing", async (t) => {
  const printed = t.mock.method(console, "error", () => {});
  const { url } = await serve(t, ({ response, after }) => {
    begin(response, "ndjson");
    response.end(frames.ndjson.frame(text(nextAfter(after))));
  });
  const debug = () => {
    throw new Error("on purpose");
  };
  const bodies: unknown[] = [];
  client(t, url, { ...ndjson, debug }).subscribe(({ body }) => bodies.push(body));
  await until("messages arrive", () => bodies.length === 2);
  assert.ok(printed.mock.callCount() > 2);
});

for (const transport of [...httpTransports, "websocket"] as const) {
  test(`${transport}: the end of a stream ends its listeners and iterators, and no others`, async (t) => {
    const lines = [
      line({ eid: "e0", body: 1, missed: 3 }),
      line({ eid: "e1", body: null, end: "done" }),
      line({ eid: "e2", sid: "t", body: 2 }),
      line({ eid: "e3", sid: "t", body: null, end: "aborted" }),
    ];
    const { url } = await serve(
      t,
      ({ response, after }) => {
        if (transport !== "websocket") {
          begin(response, transport);
          response.end(lines.slice(nextAfter(after)).map(frames[transport].frame).join(""));
        }
      },
      (socket, after) => lines.slice(nextAfter(after)).forEach((line) => socket.send(line)),
    );
    const megaphone = client(t, url, { transports: [transport], WebSocket });
    const ends: End[] = [];
    const missed: unknown[] = [];
    const all: unknown[] = [];
    megaphone.on("end", (end) => ends.push(end));
    megaphone.on("missed", ({ body, missed: count }) => missed.push([body, count]));
    megaphone.subscribe(({ sid, body, missed }) => all.push([sid, body, missed]));
    const ended = new Promise<End>((resolve) => megaphone.subscribe("t", () => {}, resolve));
    const loop = async (stream: string) => {
      const bodies: unknown[] = [];
      try {
        for await (const { body } of megaphone.messages(stream)) {
          bodies.push(body);
        }
      } catch (error) {
        bodies.push((error as { code: string }).code);
      }
      return bodies;
    };
    assert.deepEqual(await Promise.all([loop("s"), loop("t")]), [[1], [2, "ABORTED"]]);
    assert.equal((await ended).end, "aborted");
    assert.deepEqual(ends.map(({ sid, end }) => [sid, end]), [["s", "done"], ["t", "aborted"]]);
    assert.deepEqual(missed, [[1, 3]]);
    assert.deepEqual(all, [["s", 1, 3], ["t", 2, undefined]]);
  });
}

test("an end that comes before its listener waits for it", async (t) => {
  const { url } = await serve(t, ({ response }) => {
    begin(response, "ndjson");
    response.write(line({ eid: "e0", sid: "early", body: 1 }) + "\n" + line({ eid: "e1", sid: "early", end: "done" }) + "\n");
  });
  const megaphone = client(t, url, ndjson);
  megaphone.subscribe("other", () => assert.fail());
  await until("it has come", () => megaphone.cursor === "e1");
  const bodies: unknown[] = [];
  for await (const { body } of megaphone.messages("early")) {
    bodies.push(body);
  }
  assert.deepEqual(bodies, [1]);
});
