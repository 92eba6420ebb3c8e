import assert from "node:assert/strict";
import { test } from "node:test";

import { Backoff } from "../src/backoff.js";
import { Seen } from "../src/seen.js";
import { Streams, type Message } from "../src/streams.js";

test("waits double up to the longest, are random, and start over after a success", () => {
  const waits = (backoff: Backoff) => [0, 1, 2, 3, 4, 5].map(() => backoff.next());
  const backoff = new Backoff(100, 1000);
  const drawn = new Set<number>();
  for (let round = 0; round < 100; round++) {
    waits(backoff).forEach((wait, i) => {
      const ceiling = [100, 200, 400, 800, 1000, 1000][i]!;
      assert.ok(wait >= ceiling / 2 && wait <= ceiling, `wait ${i} is ${wait}`);
      drawn.add(wait);
    });
    backoff.reset();
  }
  assert.ok(drawn.size > 500, "waits are not random");
});

test("about a thousand event ids are remembered, and no more", () => {
  const seen = new Seen();
  for (let i = 0; i < 5000; i++) {
    assert.equal(seen.add(`e${i}`), true);
  }
  for (let i = 4000; i < 5000; i++) {
    assert.equal(seen.add(`e${i}`), false);
  }
  assert.equal(seen.add("e0"), true);
});

function message(sid: string, n: number): Message {
  return { sid, eid: `${sid}${n}`, ts: "", body: n };
}

test("listeners get the messages of their stream, or of all streams", async () => {
  const streams = new Streams(1000);
  const got: string[] = [];
  const end = streams.subscribe("a", ({ eid }) => got.push(`a:${eid}`));
  streams.subscribe("a", ({ eid }) => got.push(`again:${eid}`));
  streams.subscribe(undefined, ({ eid }) => got.push(`all:${eid}`));
  await Promise.resolve();
  streams.dispatch(message("a", 1), 1);
  streams.dispatch(message("b", 1), 1);
  end();
  end();
  streams.dispatch(message("a", 2), 1);
  assert.deepEqual(got, ["a:a1", "again:a1", "all:a1", "all:b1", "again:a2", "all:a2"]);
});

test("the newest 100 messages wait for their first listener, in order", async () => {
  const streams = new Streams(1000);
  for (let n = 0; n < 150; n++) {
    streams.dispatch(message("a", n), 1);
  }
  const got: number[] = [];
  streams.subscribe("b", () => assert.fail("a message of another stream"));
  streams.subscribe("a", ({ body }) => got.push(body));
  streams.subscribe("a", () => assert.fail("the first listener has got the messages"))();
  assert.deepEqual(got, [], "subscribe called the listener before it returned");
  streams.dispatch(message("a", 150), 1);
  await Promise.resolve();
  streams.dispatch(message("a", 151), 1);
  assert.deepEqual(
    got,
    Array.from({ length: 102 }, (_, i) => i + 50),
  );
});

test("messages that a listener or an iterator leaves behind wait for the next one", async () => {
  const streams = new Streams(1000);
  const got: number[] = [];
  [1, 2, 3].forEach((n) => streams.dispatch(message("a", n), 1));
  streams.subscribe("a", () => assert.fail("the listener was removed before"))();
  const end = streams.subscribe("a", ({ body }) => {
    got.push(body);
    end();
  });
  await Promise.resolve();
  assert.deepEqual(got, [1]);

  streams.iterate("a").return!();
  const iterator = streams.iterate("a");
  await Promise.resolve();
  streams.dispatch(message("a", 4), 1);
  assert.equal((await iterator.next()).value.body, 2);
  await iterator.return!();
  streams.dispatch(message("a", 5), 1);
  const abort = new AbortController();
  const next = streams.iterate("a", abort.signal);
  assert.equal((await next.next()).value.body, 3);
  abort.abort();
  streams.subscribe("a", ({ body }) => got.push(body));
  await Promise.resolve();
  assert.deepEqual(got, [1, 4, 5]);
});

test("if you leave a loop and begin another one, it misses nothing, however much was waiting", async () => {
  const streams = new Streams(1e6);
  const left = streams.iterate("a");
  await Promise.resolve();
  for (let n = 0; n < 500; n++) {
    streams.dispatch(message("a", n), 1);
  }
  await left.return!();
  const anew = streams.iterate("a");
  for (let n = 0; n < 500; n++) {
    assert.equal((await anew.next()).value.body, n);
  }
  for (let n = 500; n < 1000; n++) {
    streams.dispatch(message("a", n), 1);
  }
  await anew.return!();
  streams.dispatch(message("a", 1000), 1); // nobody listens
  assert.equal((await streams.iterate("a").next()).value.body, 901);
});

test("a message that another listener has got does not wait", async () => {
  const streams = new Streams(1000);
  const left = streams.iterate("a");
  streams.subscribe(undefined, () => {});
  await Promise.resolve();
  streams.dispatch(message("a", 1), 1);
  await left.return!();
  streams.subscribe("a", () => assert.fail("a repeat"));
  await Promise.resolve();
});

test("a listener that throws does not affect the others", (t) => {
  const errors: unknown[] = [];
  t.mock.method(console, "error", (error: unknown) => errors.push(error));
  const streams = new Streams(1000);
  const got: number[] = [];
  streams.subscribe("a", () => {
    throw new Error("on purpose");
  });
  streams.subscribe("a", ({ body }) => got.push(body));
  return Promise.resolve().then(() => {
    streams.dispatch(message("a", 1), 1);
    assert.deepEqual(got, [1]);
    assert.equal(errors.length, 1);
  });
});

test("an iterator returns what it holds before it ends, and makes room when you leave it", async () => {
  const streams = new Streams(3 * 300);
  const read = streams.iterate("a");
  const left = streams.iterate("a");
  await Promise.resolve();
  streams.dispatch(message("a", 1), 44);
  assert.equal(streams.room(), undefined);
  streams.dispatch(message("a", 2), 44);
  const room = streams.room();
  assert.ok(room, "there are 4 × 300 bytes");
  await left.return!();
  await room;
  assert.deepEqual(await left.next(), { done: true, value: undefined });
  streams.close();
  assert.equal((await read.next()).value.body, 1);
  assert.equal((await read.next()).value.body, 2);
  assert.equal((await read.next()).done, true);
});

test("the signal ends an iterator, even while it waits", async () => {
  const streams = new Streams(1000);
  const abort = new AbortController();
  const waiting = streams.iterate("a", abort.signal).next();
  abort.abort();
  assert.equal((await waiting).done, true);
  assert.equal((await streams.iterate("a", abort.signal).next()).done, true);
});
