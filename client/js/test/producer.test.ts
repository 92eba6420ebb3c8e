import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";

import { MegaphoneError, Producer } from "../src/producer.js";
import { refuse, sleep, until } from "./hostile.js";

interface Request {
  path: string;
  headers: IncomingMessage["headers"];
  body: string;
}

/** Serves requests and keeps them. */
async function serve(
  t: TestContext,
  reply: (response: ServerResponse, number: number) => void,
): Promise<{ url: string; requests: Request[] }> {
  const requests: Request[] = [];
  const server = createServer(async (request, response) => {
    let body = "";
    try {
      for await (const chunk of request) {
        body += chunk;
      }
    } catch {
      return; // the client has left
    }
    reply(response, requests.push({ path: request.url!, headers: request.headers, body }) - 1);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests };
}

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
}

test("the requests that the producer sends", async (t) => {
  const channel = { producerAddress: "main.p", consumerAddress: "main.c", agentName: "main", protocols: [] };
  const replies = [
    channel,
    channel,
    { status: "OK" },
    { failures: [{ channel: "main.x", index: 0, reason: "NOT_FOUND" }] },
    { channels: { "main.c": true } },
  ];
  const { url, requests } = await serve(t, (response, number) => json(response, 201, replies[number]));
  const producer = new Producer(`${url}/`);
  assert.deepEqual(await producer.create(), channel);
  await producer.create(["WEBSOCKET_V1"]);
  await producer.write(channel, "a b/ü", { text: "hello" }, "k1");
  assert.deepEqual(
    await producer.writeBatch(
      [channel, "main.x"],
      [
        { streamId: "s", body: null },
        { streamId: "s", body: 2, key: "k2" },
      ],
    ),
    [{ channel: "main.x", index: 0, reason: "NOT_FOUND" }],
  );
  assert.deepEqual(await producer.exist(["main.c"]), { "main.c": true });
  assert.deepEqual(
    requests.map(({ path }) => path),
    ["/create", "/create", "/write/main.p/a%20b%2F%C3%BC", "/write-batch", "/channelsExists"],
  );
  assert.equal(requests[0]!.body, "");
  assert.equal(requests[1]!.body, '{"protocols":["WEBSOCKET_V1"]}');
  assert.equal(requests[2]!.body, '{"text":"hello"}');
  assert.equal(requests[2]!.headers["idempotency-key"], "k1");
  assert.equal(requests[2]!.headers["content-type"], "application/json");
  const batch = JSON.parse(requests[3]!.body);
  assert.deepEqual(batch.channels, ["main.p", "main.x"]);
  assert.match(batch.messages[0].key, /^[\x21-\x7e]{16,255}$/);
  assert.deepEqual(batch.messages[1], { streamId: "s", body: 2, key: "k2" });
});

test("a stream id, topic or address that a URL would lose is refused, and never reaches another path", async (t) => {
  const { url, requests } = await serve(t, (response) => json(response, 201, { failures: [], status: "OK" }));
  const producer = new Producer(`${url}/app`);
  for (const dots of [".", ".."]) {
    for (const call of [
      () => producer.write("main.p", dots, 1),
      () => producer.write(dots, "s", 1),
      () => producer.state(dots),
      () => producer.delete({ producerAddress: dots }),
      () => producer.publish(dots, "s", 1),
      () => producer.publish("t", dots, 1),
      () => producer.join(dots, "main.p"),
      () => producer.leave("t", dots),
      () => producer.keep(dots),
      () => producer.close(dots),
      () => producer.topic(dots),
    ]) {
      await assert.rejects(call(), { code: "BAD_REQUEST", message: /cannot be "\.\.?" in a URL.*writeBatch/ });
    }
  }
  assert.deepEqual(requests, []);
  await producer.write("main.p", "...", 1);
  await producer.writeBatch(["main.p"], [{ streamId: "..", body: 1 }]);
  assert.deepEqual(requests.map(({ path }) => path), ["/app/write/main.p/...", "/app/write-batch"]);
});

test("a write that gets no answer is repeated with the same key", async (t) => {
  const { url, requests } = await serve(t, (response, number) => {
    if (number === 0) {
      response.destroy();
    } else if (number === 1) {
      response.writeHead(201, { "Content-Type": "application/json", "Content-Length": 100 }).write("{"); // then the connection breaks
      setTimeout(() => response.destroy(), 20);
    } else {
      json(response, 201, { status: "OK" });
    }
  });
  await new Producer(url).write("main.p", "s", 1);
  assert.equal(requests.length, 3);
  const keys = new Set(requests.map(({ headers }) => headers["idempotency-key"]));
  assert.equal(keys.size, 1);
  assert.ok([...keys][0]);
  await assert.rejects(new Producer("http://127.0.0.1:1", { attempts: 2 }).write("main.p", "s", 1), {
    code: "NETWORK",
  });
});

test("a message of a batch gets a key if its key is undefined", async (t) => {
  const { url, requests } = await serve(t, (response) => json(response, 201, { failures: [] }));
  const message: { streamId: string; body: number; key?: any } = { streamId: "s", body: 1, key: undefined };
  await new Producer(url).writeBatch(["main.p"], [message]);
  assert.match(JSON.parse(requests[0]!.body).messages[0].key, /^[\x21-\x7e]{16,255}$/);
});

test("the producer throws a refusal and does not repeat the request", async (t) => {
  const { url, requests } = await serve(t, (response) => refuse(response, 404, "NOT_FOUND"));
  await assert.rejects(new Producer(url).write("main.p", "s", 1), {
    name: "MegaphoneError",
    code: "NOT_FOUND",
    status: 404,
  });
  assert.equal(requests.length, 1);
  const page = await serve(t, (response) => response.writeHead(502).end("<html>"));
  await assert.rejects(new Producer(page.url).create(), { code: "HTTP", status: 502 });
});

test("ingest sends messages as they come", async (t) => {
  let seen = "";
  const server = createServer(async (request, response) => {
    assert.equal(request.headers["content-type"], "application/x-ndjson");
    for await (const chunk of request) {
      seen += chunk;
    }
    json(response, 201, { written: 2, failures: [], failuresTotal: 0 });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  async function* messages() {
    yield { channel: "main.p", streamId: "s", body: 1 };
    while (!seen.includes("\n")) {
      await sleep(2); // the server must have the first message before the second one is made
    }
    yield { channel: { producerAddress: "main.q" }, streamId: "t", body: { a: "ü" }, key: "k" };
  }
  const producer = new Producer(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  assert.deepEqual(await producer.ingest(messages()), { written: 2, failures: [], failuresTotal: 0 });
  assert.equal(
    seen,
    '{"channel":"main.p","streamId":"s","body":1}\n{"channel":"main.q","streamId":"t","body":{"a":"ü"},"key":"k"}\n',
  );
});

test("an ingest fails if its source fails or it is aborted", async (t) => {
  const { url } = await serve(t, (response) => json(response, 201, { written: 0, failures: [], failuresTotal: 0 }));
  async function* failing() {
    yield { channel: "main.p", streamId: "s", body: 1 };
    throw new Error("on purpose");
  }
  await assert.rejects(new Producer(url).ingest(failing()), { name: "MegaphoneError" });
  let ended = false;
  async function* endless() {
    try {
      for (;;) {
        yield { channel: "main.p", streamId: "s", body: 1 };
        await sleep(1);
      }
    } finally {
      ended = true;
    }
  }
  await assert.rejects(new Producer(url).ingest(endless(), { signal: AbortSignal.timeout(50) }), {
    name: "MegaphoneError",
  });
  await until("the source has ended", () => ended);
});

test("a page of the site in place of a reply is an error at once, without secrets", async (t) => {
  const { url, requests } = await serve(t, (response) =>
    response.writeHead(200, { "Content-Type": "text/html" }).end("<!doctype html>"),
  );
  const producer = new Producer(`${url}/wrong?token=secret`);
  for (const call of [
    () => producer.write("main.secret", "s", 1),
    () => producer.create(),
    () => producer.join("t", "main.secret"),
    () => producer.state("main.secret"),
    () => producer.ingest([{ channel: "main.secret", streamId: "s", body: 1 }]),
  ]) {
    const error: MegaphoneError = await call().then(() => assert.fail(), (error) => error);
    assert.deepEqual([error.name, error.code, error.status], ["MegaphoneError", "HTTP", 200]);
    assert.ok(error.message.includes(`${url}/wrong`) && !error.message.includes("secret"), error.message);
  }
  assert.equal(requests.length, 5, "nothing is repeated");
});

test("the base URL's query is kept, and headers are asked for before each attempt", async (t) => {
  const { url, requests } = await serve(t, (response, number) =>
    number === 0 ? response.destroy() : json(response, 202, { members: 1, accepted: 1, full: 0 }),
  );
  let n = 0;
  const producer = new Producer(`${url}/api/?token=a%2Fb#x`, { headers: async () => ({ "X-Token": String(++n) }) });
  await producer.publish("a b", "s/t", 1, { full: "hold", key: "k", merge: "replace" });
  await producer.ingest([{ topic: "a", streamId: "s", body: 1 }], { close: ["a", "b/ü"] });
  assert.deepEqual(
    requests.map(({ path, headers }) => [path, headers["x-token"]]),
    [
      ["/api/publish/a%20b/s%2Ft?token=a%2Fb&full=hold", "1"],
      ["/api/publish/a%20b/s%2Ft?token=a%2Fb&full=hold", "2"],
      ["/api/write?token=a%2Fb&close=a&close=b%2F%C3%BC", "3"],
    ],
  );
  assert.equal(requests[1]!.headers["idempotency-key"], "k");
  assert.equal(requests[1]!.headers["megaphone-merge"], "replace");
});

test("a reply that is not from Megaphone is not read to its end, and holds no connection", async (t) => {
  let closed = false;
  const { url } = await serve(t, (response) => {
    response.on("close", () => (closed = true));
    response.writeHead(200, { "Content-Type": "text/html" }).write("<!doctype html>"); // and no end
  });
  await assert.rejects(new Producer(url, { timeout: 200_000 }).exist([]), { code: "HTTP" });
  await until("the connection is closed", () => closed, 20_000);
});
