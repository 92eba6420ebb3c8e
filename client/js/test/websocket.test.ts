// Tests of the client against a server that misbehaves on WebSockets, and of platforms without WebSockets.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket } from "ws";

import type { Fault, State } from "../src/index.js";
import { begin, client, frames, nextAfter, numbers, refuse, serve, sleep, take, text, until } from "./hostile.js";

const options = { WebSocket, transports: ["websocket"] as const };
const noHTTP = () => assert.fail("a request was not for a WebSocket");

test("messages arrive, and the client acknowledges them", async (t) => {
  const acks: string[] = [];
  const { url } = await serve(t, noHTTP, (socket, after) => {
    socket.on("message", (data) => acks.push(JSON.parse(String(data)).ack));
    for (let n = nextAfter(after); n < 200; n++) {
      socket.send(text(n));
    }
  });
  const megaphone = client(t, url, options);
  assert.deepEqual(await take(megaphone, 200), numbers(200));
  await until("all is acknowledged", () => acks.at(-1) === "e199");
  // From the first acknowledgement on, the server waits for acknowledgements.
  assert.equal(acks[0], "e0", "the client must acknowledge the first message at once");
  assert.deepEqual(
    acks,
    [...acks].sort((a, b) => nextAfter(a) - nextAfter(b)),
  );
  assert.equal(megaphone.transport, "websocket");
});

test("a client that continues after a cursor acknowledges that cursor", async (t) => {
  const acks: string[] = [];
  const { url } = await serve(t, noHTTP, (socket) => {
    socket.on("message", (data) => acks.push(JSON.parse(String(data)).ack));
  });
  client(t, url, { ...options, after: "e41" }).subscribe(() => {});
  await until("it is acknowledged", () => acks[0] === "e41");
});

for (const code of [
  undefined, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 4000, 4400, 4409, 4499, 4999,
]) {
  test(`closed with ${code ?? "no code"}: nothing is lost`, async (t) => {
    const { url } = await serve(t, noHTTP, (socket, after) => {
      socket.send(text(nextAfter(after)));
      socket.close(code, "on purpose");
    });
    const megaphone = client(t, url, options);
    const errors: Fault[] = [];
    megaphone.on("error", (error) => errors.push(error));
    megaphone.on("gone", assert.fail);
    assert.deepEqual(await take(megaphone, 5), numbers(5));
    const code409 = errors.some((error) => error.code === "TAKEN_OVER");
    assert.equal(code409, code === 4409);
    assert.equal(errors.length === 0, code === 1000 || code === 1001, "a clean end is not an error");
  });
}

test("closed with 4404: the channel is gone", async (t) => {
  const { url, cursors } = await serve(t, noHTTP, (socket, after) => {
    socket.send(text(nextAfter(after)));
    socket.close(4404);
  });
  const megaphone = client(t, url, options);
  const states: State[] = [];
  megaphone.on("state", (state) => states.push(state));
  await take(megaphone, 1);
  await until("the client reports it", () => megaphone.state === "gone");
  assert.deepEqual(states, ["connecting", "open", "gone"]);
  assert.equal(cursors.length, 1);
});

test("connections that break: nothing is lost", async (t) => {
  const { url } = await serve(t, noHTTP, (socket, after, number) => {
    socket.send(text(nextAfter(after)));
    if (number % 2) {
      socket.send('{"sid":"s","eid":'); // not JSON
      socket.send(text(nextAfter(after) + 1));
    } else {
      setTimeout(() => socket.terminate(), 5);
    }
  });
  assert.deepEqual(await take(client(t, url, options), 20), numbers(20));
});

test("a binary message is a fault", async (t) => {
  const { url } = await serve(t, noHTTP, (socket, after, number) => {
    socket.send(number ? text(nextAfter(after)) : Buffer.of(1));
  });
  const megaphone = client(t, url, options);
  const errors: Fault[] = [];
  megaphone.on("error", (error) => errors.push(error));
  assert.deepEqual(await take(megaphone, 1), [0]);
  assert.deepEqual(
    errors.map(({ code }) => code),
    ["UNREADABLE"],
  );
});

test("if the server always closes at once, there is no busy loop", async (t) => {
  for (const code of [1000, 1011, 4409]) {
    const { url, cursors } = await serve(t, noHTTP, (socket) => socket.close(code));
    const megaphone = client(t, url, { ...options, backoff: [100, 30_000] });
    megaphone.subscribe(() => assert.fail());
    await until("it has tried twice", () => cursors.length >= 2);
    await sleep(1000);
    assert.ok(cursors.length <= 7, `${cursors.length} connections with ${code}`);
    megaphone.close();
  }
});

test("the client replaces a silent connection without an error", async (t) => {
  const { url, cursors } = await serve(t, noHTTP, (socket, after) => socket.send(text(nextAfter(after))));
  const megaphone = client(t, url, { ...options, silence: 100 });
  megaphone.on("error", assert.fail);
  assert.deepEqual(await take(megaphone, 4), numbers(4));
  assert.ok(cursors.length >= 4);
});

test("a page that does not consume stops acknowledging and loses nothing", async (t) => {
  const window = 100;
  let sent = 0;
  const { url, cursors } = await serve(t, noHTTP, (socket, after) => {
    let acked = nextAfter(after);
    let n = acked;
    const send = () => {
      for (; n < 2000 && n < acked + window; n++) {
        socket.send(text(n));
      }
      sent = n;
    };
    socket.on("message", (data) => {
      acked = nextAfter(JSON.parse(String(data)).ack);
      send();
    });
    send();
  });
  const megaphone = client(t, url, { ...options, buffer: 100_000, silence: 300 });
  const messages = megaphone.messages("s");
  let before = -1;
  await until("the server waits", () => sent > 0 && before === (before = sent));
  await sleep(800); // longer than silence, but here the client itself causes the silence
  assert.ok(sent < 600, `the server sent ${sent} messages of some 350 bytes`);
  assert.equal(cursors.length, 1);
  for (let n = 0; n < 2000; n++) {
    assert.equal((await messages.next()).value.body, n);
  }
});

test("close ends the connection, even while it is being made", async (t) => {
  let open = 0;
  const { url } = await serve(t, noHTTP, (socket) => {
    open++;
    socket.on("close", () => open--);
  });
  const early = client(t, url, options);
  early.subscribe(() => assert.fail());
  await Promise.resolve();
  early.close();
  const megaphone = client(t, url, options);
  megaphone.subscribe(() => assert.fail());
  await until("it is open", () => megaphone.state === "open");
  megaphone.close();
  await until("it is closed", () => open === 0);
});

test("if the server refuses a WebSocket because the channel is gone, the client reports that", async (t) => {
  const { url } = await serve(t, ({ request, response }) => {
    assert.equal(request.method, "HEAD");
    refuse(response, 404, "NOT_FOUND");
  });
  const megaphone = client(t, url, options);
  megaphone.subscribe(() => assert.fail());
  await until("it is gone", () => megaphone.state === "gone");
});

test("the client does not wait for a server that refuses a WebSocket and then is silent", async (t) => {
  const { url } = await serve(t, ({ request }) => assert.equal(request.method, "HEAD"));
  const megaphone = client(t, url, { ...options, timeout: 100 });
  const codes: unknown[] = [];
  megaphone.on("error", ({ code }) => codes.push(code));
  megaphone.subscribe(() => assert.fail());
  await until("it has tried twice", () => codes.length === 2, 5000);
  assert.deepEqual(codes, ["NETWORK", "NETWORK"]);
});

for (const [status, code] of [
  [409, "BUSY"],
  [503, "LIMIT_REACHED"],
] as const) {
  test(`after a refusal of a WebSocket with ${status}, the client tries again when the server says`, async (t) => {
    const times: number[] = [];
    const { url } = await serve(t, ({ response }) => {
      times.push(performance.now());
      refuse(response, status, code, { "Retry-After": "1" });
    });
    const megaphone = client(t, url, options);
    const told: unknown[] = [];
    megaphone.on("error", (error) => told.push(error.status));
    megaphone.subscribe(() => assert.fail());
    await until("it has tried twice", () => told.length === 2);
    assert.deepEqual(told, [status, status]);
    assert.ok(times[1]! - times[0]! >= 990, `${times[1]! - times[0]!} ms`);
  });
}

test("if the server has no WebSocket, the client uses the next transport and does not try again", async (t) => {
  const tried: string[] = [];
  const { url } = await serve(t, ({ request, response, after }) => {
    tried.push(request.headers.accept!);
    begin(response, "sse");
    response.end(frames.sse.frame(text(nextAfter(after))));
  });
  let constructed = 0;
  class Counted extends WebSocket {
    constructor(address: string) {
      super(address);
      constructed++;
    }
  }
  const megaphone = client(t, url, { WebSocket: Counted });
  megaphone.on("error", assert.fail);
  assert.deepEqual(await take(megaphone, 5), numbers(5));
  assert.equal(megaphone.transport, "sse");
  assert.equal(constructed, 1);
  assert.ok(
    tried.every((accept) => accept.startsWith("text/event-stream")),
    String(tried),
  );
});

test("if a content security policy forbids WebSockets, the client uses the next transport", async (t) => {
  const { url } = await serve(t, ({ response, after }) => {
    begin(response, "sse");
    response.end(frames.sse.frame(text(nextAfter(after))));
  });
  class Forbidden {
    constructor() {
      throw new DOMException("The operation is insecure.", "SecurityError");
    }
  }
  const megaphone = client(t, url, { WebSocket: Forbidden });
  megaphone.on("error", assert.fail);
  assert.deepEqual(await take(megaphone, 3), numbers(3));
  assert.equal(megaphone.transport, "sse");
});

test("if a site offers only polls, the client polls", async (t) => {
  const { url } = await serve(t, ({ request, response, after }) => {
    if (!request.url!.includes("poll=")) {
      return refuse(response, 406, "NOT_ACCEPTABLE");
    }
    begin(response, "poll");
    response.end(frames.poll.frame(text(nextAfter(after))));
  });
  const megaphone = client(t, url, { WebSocket });
  megaphone.on("error", assert.fail);
  assert.deepEqual(await take(megaphone, 5), numbers(5));
  assert.equal(megaphone.transport, "poll");
});

test("if a proxy holds back streams, the client polls", async (t) => {
  const { url } = await serve(t, ({ request, response, after }) => {
    if (request.url!.includes("poll=")) {
      begin(response, "poll");
      response.end(frames.poll.frame(text(nextAfter(after))));
    } else if (request.headers.accept!.startsWith("text/event-stream")) {
      response.writeHead(200, { "Content-Type": "text/event-stream" }).flushHeaders();
    } // else: even the header of the NDJSON response never arrives
  });
  const megaphone = client(t, url, { WebSocket, timeout: 150 });
  assert.deepEqual(await take(megaphone, 5), numbers(5));
  assert.equal(megaphone.transport, "poll");
});

test("if a proxy passes on headers and holds back bodies, the client polls too", async (t) => {
  const { url, cursors } = await serve(t, ({ request, response, after }) => {
    if (request.url!.includes("poll=")) {
      begin(response, "poll");
      response.end(frames.poll.frame(text(nextAfter(after))));
    } else {
      const type = request.headers.accept!.startsWith("text/event-stream") ? "sse" : "ndjson";
      response.writeHead(200, { "Content-Type": frames[type].type }).flushHeaders();
    }
  });
  const megaphone = client(t, url, { WebSocket, timeout: 150 });
  assert.deepEqual(await take(megaphone, 5), numbers(5));
  assert.equal(megaphone.transport, "poll");
  assert.ok(cursors.length <= 7, `${cursors.length} requests`);
});

test("after a connection is lost, the state is not open until there is another one", async (t) => {
  const { url } = await serve(
    t,
    () => {}, // never replies
    (socket, after) => {
      socket.send(text(nextAfter(after)));
      setTimeout(() => socket.close(1000), 20);
    },
  );
  let connections = 0;
  class Once extends WebSocket {
    constructor(address: string) {
      if (connections++ > 0) {
        throw new Error("on purpose");
      }
      super(address);
    }
  }
  const megaphone = client(t, url, { WebSocket: Once, timeout: 5000 });
  await take(megaphone, 1);
  assert.equal(megaphone.state, "open");
  await until("it says so", () => megaphone.state === "connecting", 4000);
});

test("when a server comes back, the client uses the best transport", async (t) => {
  let away = true;
  const { url } = await serve(
    t,
    ({ response }) => (away ? response.destroy() : assert.fail("not by WebSocket")),
    (socket, after) => (away ? socket.terminate() : socket.send(text(nextAfter(after)))),
  );
  const megaphone = client(t, url, { WebSocket });
  let errors = 0;
  megaphone.on("error", () => (errors += 1));
  const messages = megaphone.messages("s");
  await until("it has tried", () => errors >= 3);
  away = false;
  assert.equal((await messages.next()).value.body, 0);
  assert.equal(megaphone.transport, "websocket");
});

test("if the server refuses all transports, there is no busy loop, and the client reports the reason", async (t) => {
  const { url, cursors } = await serve(t, ({ response }) => refuse(response, 406, "NOT_ACCEPTABLE"));
  const megaphone = client(t, url, { WebSocket, backoff: [200, 30_000] });
  const errors: Fault[] = [];
  megaphone.on("error", (error) => errors.push(error));
  megaphone.subscribe(() => assert.fail());
  await until("it has tried twice", () => errors.length >= 2);
  await sleep(1000);
  assert.ok(cursors.length <= 18, `${cursors.length} requests`);
  assert.ok(errors.every(({ code }) => code === "NOT_ACCEPTABLE"));
});
