// Bodies that are decoded or checked before listeners get them.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { WebSocket } from "ws";
import { z } from "zod";

import type { Fault } from "../src/index.js";
import { begin, client, frames, nextAfter, numbers, serve, sleep, take, text, until } from "./hostile.js";

for (const [library, schema] of Object.entries({
  zod: z.object({ n: z.coerce.number() }),
  valibot: v.object({ n: v.pipe(v.unknown(), v.transform(Number), v.number()) }),
})) {
  test(`a schema of ${library}: listeners get its output, and a body that it refuses is an error`, async (t) => {
    const { url, cursors } = await serve(t, ({ response, after }) => {
      begin(response, "ndjson");
      const bodies = [{ n: "1" }, { m: 2 }, { n: "3" }];
      response.write(bodies.slice(nextAfter(after)).map((body, n) => text(n, body) + "\n").join(""));
    });
    const megaphone = client(t, url, { transports: ["ndjson"], schemas: { s: schema } });
    const errors: Fault[] = [];
    megaphone.on("error", (error) => errors.push(error));
    assert.deepEqual(await take(megaphone, 2), [{ n: 1 }, { n: 3 }]);
    assert.equal(errors.length, 1);
    assert.equal(errors[0]!.code, "INVALID");
    assert.deepEqual(errors[0]!.received?.body, { m: 2 });
    assert.equal(cursors.length, 1, "the connection goes on");
  });
}

test("decode keeps the order, and a stream without a schema is not checked", async (t) => {
  const { url } = await serve(t, ({ response }) => {
    begin(response, "sse");
    response.write(numbers(30).map((n) => frames.sse.frame(text(n, String(n)))).join(""));
  });
  const megaphone = client(t, url, {
    transports: ["sse"],
    schemas: { toString: z.never() } as object,
    decode: async ({ body }) => {
      await sleep(Math.random() * 4);
      return Number(body);
    },
  });
  assert.deepEqual(await take(megaphone, 30), numbers(30));
});

for (const transport of ["poll", "websocket"] as const) {
  test(`${transport}: an asynchronous schema does not slow down reads`, async (t) => {
    const { url } = await serve(
      t,
      ({ response, after }) => {
        begin(response, "poll");
        response.end(frames.poll.frame(text(nextAfter(after))));
      },
      (socket, after) => {
        socket.send(text(nextAfter(after)));
        socket.close(1000);
      },
    );
    const decode = async ({ body }: { body: unknown }) => {
      await sleep(20); // longer than the read
      return body;
    };
    const began = performance.now();
    const megaphone = client(t, url, { transports: [transport], WebSocket, backoff: [2000, 2000], decode });
    assert.deepEqual(await take(megaphone, 10), numbers(10));
    assert.ok(performance.now() - began < 8000, "it waits after each read");
  });
}

test("a message counts as received only when it is decoded", async (t) => {
  const acks: string[] = [];
  const { url } = await serve(t, () => assert.fail(), (socket, after) => {
    socket.on("message", (data) => acks.push(JSON.parse(String(data)).ack));
    socket.send(text(nextAfter(after)));
  });
  let decoded!: () => void;
  const waiting = new Promise<void>((resolve) => (decoded = resolve));
  const megaphone = client(t, url, { WebSocket, transports: ["websocket"], decode: () => waiting });
  const got: unknown[] = [];
  megaphone.subscribe((message) => got.push(message));
  await until("it is open", () => megaphone.state === "open");
  await sleep(50);
  assert.deepEqual([acks, got, megaphone.cursor], [[], [], ""]);
  decoded();
  await until("it is acknowledged", () => acks[0] === "e0");
  assert.equal(got.length, 1);
});

test("a channel that ends while a message is decoded: the message comes first, and the next channel has no cursor yet", async (t) => {
  const { url, cursors } = await serve(t, () => assert.fail(), (socket, _after, number) => {
    if (number === 0) {
      socket.send(text(0));
      socket.close(4404);
    }
  });
  const decode = async ({ body }: { body: unknown }) => {
    await sleep(20); // longer than the rest of the connection
    return body;
  };
  const megaphone = client(t, url, { WebSocket, transports: ["websocket"], decode }, () => "main.c");
  const got: unknown[] = [];
  megaphone.on("gone", () => got.push("gone"));
  megaphone.subscribe(({ body }) => got.push(body));
  await until("the next channel is read", () => cursors.length === 2);
  assert.deepEqual(got, [0, "gone"]);
  assert.deepEqual(cursors, ["", ""]);
});
