// Uses every call of this project's producer for topics, and reads what comes of it with its client.
//
// Argument: the server's URL.

import assert from "node:assert/strict";

import { Megaphone } from "../../client/js/dist/megaphone.js";
import { Producer } from "../../client/js/dist/producer.js";

const [url] = process.argv.slice(2);
const producer = new Producer(url);
const transports = ["sse", "ndjson", "poll"];

/** Reads a channel until a stream ends. Returns all that the page is told. */
async function read(channel, stream, transport = "ndjson") {
  const megaphone = new Megaphone(url, channel, { transports: [transport] });
  const told = [];
  megaphone.on("missed", ({ missed }) => told.push(`missed ${missed}`));
  await new Promise((resolve) => {
    megaphone.subscribe(({ sid, body }) => told.push(`${sid} ${JSON.stringify(body)}`));
    megaphone.on("end", ({ sid, end }) => {
      told.push(`${sid} ${end}`);
      if (sid === stream) {
        resolve();
      }
    });
  });
  megaphone.close();
  return told;
}

// Memory, joining, leaving, publishing, closing, in each transport.
await producer.keep("news", { keep: "10kB", ttl: "1m" });
assert.deepEqual(await producer.publish("news", "headline", "kept"), { members: 0, accepted: 0, full: 0 });
const members = [];
for (const last of ["all", 1, undefined]) {
  const topic = last === undefined ? "news" : { topic: "news", last };
  members.push(await producer.create({ ttl: "30s", topics: [topic] }));
}
const joined = await producer.create({ topics: [] });
await producer.join("news", joined, { last: "all" });
const left = await producer.create({ topics: ["other"] });
await producer.join("news", left);
await producer.leave("news", left);
const key = crypto.randomUUID();
for (let attempt = 0; attempt < 2; attempt++) {
  assert.deepEqual(await producer.publish("news", "headline", { n: 1 }, { key }), { members: 4, accepted: 4, full: 0 });
}
const state = { members: 4, connected: 0, kept: 2, closed: null };
assert.deepEqual(await producer.topic("news"), state);
await producer.close("news", { streamId: "headline" });
assert.deepEqual(await producer.topic("news"), { ...state, closed: "done" });
await assert.rejects(producer.publish("news", "headline", 2), { code: "CLOSED", status: 409 });
const all = ['headline "kept"', 'headline {"n":1}', "headline done"];
for (const [n, channel] of [...members, joined].entries()) {
  assert.deepEqual(await read(channel, "headline", transports[n % 3]), n === 2 ? all.slice(1) : all);
}

// A full member misses messages, and learns how many.
const slow = await producer.create({ topics: ["ticks"] });
for (let n = 0; n < 103; n++) {
  const want = n < 100 ? { members: 1, accepted: 1, full: 0 } : { members: 1, accepted: 0, full: 1 };
  assert.deepEqual(await producer.publish("ticks", "tick", n), want);
}
const reading = read(slow, "ticks");
while ((await producer.publish("ticks", "tick", "late")).full > 0) {
  // until there is room
}
await producer.close("ticks", { as: "aborted" });
const told = await reading;
assert.ok(/^missed \d+$/.test(told[100]) && Number(told[100].slice(7)) >= 3, told[100]);
assert.deepEqual(told.slice(101), ['tick "late"', "ticks aborted"]);

// full=delete deletes the channels of full members.
const doomed = await producer.create({ topics: ["strict"] });
for (let n = 0; n < 100; n++) {
  await producer.publish("strict", "s", n);
}
await producer.publish("strict", "s", 100, { full: "delete" });
assert.deepEqual(await producer.exist([doomed.consumerAddress]), { [doomed.consumerAddress]: false });

// A streamed ingest to a topic and a channel closes the topic: done, or aborted when its source dies.
for (const end of ["done", "aborted"]) {
  const topic = `answer ${end}/ü`;
  const member = await producer.create({ topics: [topic] });
  async function* words() {
    yield { topic, streamId: "text", body: "a" };
    yield { channel: member, streamId: "text", body: "b" };
    if (end === "aborted") {
      while ((await producer.state(member)).pending < 2) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      throw new Error("the source dies");
    }
  }
  const ingest = producer.ingest(words(), { close: [topic] });
  if (end === "done") {
    assert.deepEqual(await ingest, { written: 2, failures: [], failuresTotal: 0 });
  } else {
    await assert.rejects(ingest, { name: "MegaphoneError" });
  }
  assert.deepEqual((await read(member, topic)).sort(), [`${topic} ${end}`, 'text "a"', 'text "b"']);
}
const { failures } = await producer.ingest([{ topic: "", streamId: "s", body: 1 }]);
assert.deepEqual(failures, [{ topic: "", index: 0, reason: "BAD_REQUEST" }]);

// An iterator over one stream ends with it, and throws if its producer has died.
for (const as of ["done", "aborted"]) {
  const channel = await producer.create({ topics: [as] });
  await producer.publish(as, as, 1);
  await producer.close(as, { as });
  const megaphone = new Megaphone(url, channel, { transports: ["sse"] });
  const bodies = [];
  const loop = (async () => {
    for await (const { body } of megaphone.messages(as)) {
      bodies.push(body);
    }
  })();
  await (as === "done" ? loop : assert.rejects(loop, { code: "ABORTED" }));
  assert.deepEqual(bodies, [1]);
  megaphone.close();
}

// Merging: what waits for a slow reader is replaced, or joined.
const merged = await producer.create({ topics: ["merge"] });
await producer.write(merged, "price", 1, { merge: "replace" });
await producer.write(merged, "price", 2, { merge: "replace" });
await producer.writeBatch([merged], ["Hel", "lo"].map((body) => ({ streamId: "text", body, merge: "append" })));
await producer.ingest([{ channel: merged, streamId: "text", body: "!", merge: "append" }]);
await producer.close("merge");
assert.deepEqual(await read(merged, "merge"), ["price 2", 'text "Hello!"', "merge done"]);

await producer.delete(merged);
await assert.rejects(producer.state(merged), { code: "NOT_FOUND" });
