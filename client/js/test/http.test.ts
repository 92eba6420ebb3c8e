// Tests of the client against a server that misbehaves over HTTP.

import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { test } from "node:test";

import type { Fault, MegaphoneError, State } from "../src/index.js";
import {
  begin,
  client,
  frames,
  httpTransports,
  nextAfter,
  numbers,
  refuse,
  serve,
  sleep,
  take,
  text,
  until,
} from "./hostile.js";

for (const transport of httpTransports) {
  const { frame, type } = frames[transport];
  const options = { transports: [transport] };

  test(`${transport}: anything that is not a message is a fault, and nothing is lost`, async (t) => {
    const garbage = ["not JSON", "1", "null", '{"sid":1,"eid":2}', "[]", '{"eid":"e9"}'];
    const { url } = await serve(t, ({ response, after, number }) => {
      begin(response, transport);
      const n = nextAfter(after);
      response.write(frame(text(n)) + frame(garbage[number % garbage.length]!) + frame(text(n + 1)));
    });
    const megaphone = client(t, url, options);
    const errors: Fault[] = [];
    megaphone.on("error", (error) => errors.push(error));
    assert.deepEqual(await take(megaphone, 12), numbers(12));
    assert.ok(errors.length >= 11 && errors.every(({ code }) => code === "UNREADABLE"), String(errors));
  });

  test(`${transport}: the client drops messages that are sent again`, async (t) => {
    const { url } = await serve(t, ({ response, after, number }) => {
      begin(response, transport);
      const n = nextAfter(after);
      const messages = number % 2 ? [n - 3, n - 2, n - 1, n, n] : [n, n + 1, n];
      response.end(
        messages
          .filter((m) => m >= 0)
          .map((m) => frame(text(m)))
          .join(""),
      );
    });
    assert.deepEqual(await take(client(t, url, options), 20), numbers(20));
  });

  test(`${transport}: after a clean end, the next read follows at once`, async (t) => {
    const { url } = await serve(t, ({ response, after }) => {
      begin(response, transport);
      response.end(frame(text(nextAfter(after))));
    });
    const began = performance.now();
    assert.deepEqual(await take(client(t, url, { ...options, backoff: [10_000, 10_000] }), 50), numbers(50));
    assert.ok(performance.now() - began < 8000);
  });

  test(`${transport}: empty reads that end at once cause no busy loop`, async (t) => {
    const { url, cursors } = await serve(t, ({ response }) => {
      begin(response, transport);
      response.end();
    });
    const megaphone = client(t, url, { ...options, backoff: [100, 30_000] });
    megaphone.subscribe(() => assert.fail());
    await sleep(2000);
    assert.ok(cursors.length > 2 && cursors.length < 10, `${cursors.length} reads`);
  });

  test(`${transport}: a server that stays broken causes no busy loop`, async (t) => {
    const faults: ((response: ServerResponse) => void)[] = [
      (response) => response.destroy(),
      (response) => refuse(response, 500, "INTERNAL_SERVER_ERROR"),
      (response) => refuse(response, 409, "BUSY"),
      (response) => refuse(response, 400, "BAD_REQUEST"),
      (response) => response.writeHead(204).end(),
      (response) => response.writeHead(200, { "Content-Type": type }).end(frame("{")),
    ];
    await Promise.all(
      faults.map(async (fault) => {
        const { url, cursors } = await serve(t, ({ response }) => fault(response));
        const megaphone = client(t, url, { ...options, backoff: [100, 30_000] });
        megaphone.subscribe(() => assert.fail());
        await until("it has tried twice", () => cursors.length >= 2);
        await sleep(1000);
        assert.ok(cursors.length <= 7, `${cursors.length} reads of ${fault}`);
      }),
    );
  });

  test(`${transport}: after a 409, the client tries again`, async (t) => {
    const { url } = await serve(t, ({ response, after, number }) => {
      if (number < 3) {
        return refuse(response, 409, "BUSY");
      }
      begin(response, transport);
      response.write(frame(text(nextAfter(after))));
    });
    const megaphone = client(t, url, options);
    const codes: unknown[] = [];
    megaphone.on("error", ({ code }) => codes.push(code));
    assert.deepEqual(await take(megaphone, 1), [0]);
    assert.deepEqual(codes, ["BUSY", "BUSY", "BUSY"]);
  });

  test(`${transport}: the client respects Retry-After`, async (t) => {
    const times: number[] = [];
    const { url } = await serve(t, ({ response, number }) => {
      times.push(performance.now());
      if (number === 0) {
        return refuse(response, 503, "LIMIT_REACHED", { "Retry-After": "1" });
      }
      begin(response, transport);
      response.write(frame(text(0)));
    });
    assert.deepEqual(await take(client(t, url, options), 1), [0]);
    assert.ok(times[1]! - times[0]! >= 990, `${times[1]! - times[0]!} ms`);
  });

  test(`${transport}: when a channel is gone, the client reports it and waits for another`, async (t) => {
    const { url, cursors } = await serve(t, ({ response, address, after }) => {
      if (address === "main.old" && after !== "") {
        return refuse(response, 404, "NOT_FOUND");
      }
      begin(response, transport);
      response.end(frame(text(address === "main.old" ? 0 : nextAfter(after) + 1)));
    });
    const megaphone = client(t, url, options, { consumerAddress: "main.old" });
    const states: State[] = [];
    megaphone.on("state", (state) => states.push(state));
    megaphone.on("error", assert.fail);
    const gone = new Promise<MegaphoneError>((resolve) => megaphone.on("gone", resolve));
    const messages = megaphone.messages("s");
    assert.equal((await messages.next()).value.body, 0);
    assert.equal((await gone).code, "NOT_FOUND");
    assert.equal(megaphone.state, "gone");
    const reads = cursors.length;
    await sleep(200);
    assert.equal(cursors.length, reads, "the client asked again for a channel that is gone");
    megaphone.use("main.new");
    assert.equal((await messages.next()).value.body, 1);
    assert.equal(cursors[reads], "", "the client used the cursor of the old channel");
    assert.deepEqual(states, ["connecting", "open", "gone", "connecting", "open"]);
  });

  test(`${transport}: a function creates the next channel, without a busy loop if that is gone too`, async (t) => {
    let created = 0;
    const { url } = await serve(t, ({ response }) => refuse(response, 404, "NOT_FOUND"));
    const megaphone = client(t, url, { ...options, backoff: [50, 30_000] }, async () => `main.c${++created}`);
    megaphone.subscribe(() => assert.fail());
    await sleep(1000);
    assert.ok(created >= 2 && created <= 6, `${created} channels`);
  });

  test(`${transport}: a page that calls use on gone causes no busy loop`, async (t) => {
    const { url, cursors } = await serve(t, ({ response }) => refuse(response, 404, "NOT_FOUND"));
    const megaphone = client(t, url, { ...options, backoff: [50, 30_000] });
    megaphone.on("gone", () => megaphone.use("main.next"));
    megaphone.subscribe(() => assert.fail());
    await sleep(1000);
    assert.ok(cursors.length >= 2 && cursors.length <= 6, `${cursors.length} reads`);
  });

  test(`${transport}: the client calls a function that fails again`, async (t) => {
    let calls = 0;
    const { url } = await serve(t, ({ response, after }) => {
      begin(response, transport);
      response.write(frame(text(nextAfter(after))));
    });
    const megaphone = client(t, url, options, () => {
      if (++calls < 3) {
        throw new Error("the backend is away");
      }
      return { consumerAddress: "main.c" };
    });
    assert.deepEqual(await take(megaphone, 1), [0]);
    assert.equal(calls, 3);
    const useless = client(t, url, options, async () => JSON.parse('{"error":"not logged in"}'));
    const fault = new Promise<Fault>((resolve) => useless.on("error", resolve));
    useless.subscribe(() => assert.fail());
    assert.equal((await fault).code, "NO_CHANNEL");
  });

  test(`${transport}: the client gives up a stalled connection`, async (t) => {
    const { url, cursors } = await serve(t, ({ response, after }) => {
      begin(response, transport);
      response.write(frame(text(nextAfter(after)))); // then the server is silent forever
    });
    const megaphone = client(t, url, { ...options, silence: 100 });
    assert.deepEqual(await take(megaphone, 4), numbers(4));
    assert.ok(cursors.length >= 4);
  });

  test(`${transport}: close ends a read and the iterators that wait for it`, async (t) => {
    let open = 0;
    const { url } = await serve(t, ({ response }) => {
      open++;
      response.on("close", () => open--);
      begin(response, transport);
    });
    const megaphone = client(t, url, options);
    const next = megaphone.messages().next();
    await until("it reads", () => open === 1 && megaphone.state === "open");
    megaphone.close();
    assert.equal((await next).done, true);
    await until("the connection is closed", () => open === 0);
    assert.equal(megaphone.state, "closed");
    megaphone.use("main.other");
    megaphone.subscribe(() => assert.fail());
    await sleep(100);
    assert.equal(megaphone.state, "closed");
    assert.equal(open, 0);
  });

  test(`${transport}: the signal closes a client, even before the client begins`, async (t) => {
    let open = 0;
    const { url } = await serve(t, ({ response }) => {
      open++;
      response.on("close", () => open--);
      begin(response, transport);
    });
    const abort = new AbortController();
    const megaphone = client(t, url, { ...options, signal: abort.signal });
    const next = megaphone.messages().next();
    await until("it reads", () => open === 1 && megaphone.state === "open");
    abort.abort();
    assert.equal((await next).done, true);
    assert.equal(megaphone.state, "closed");
    await until("the connection is closed", () => open === 0);
    assert.equal(client(t, url, { ...options, signal: abort.signal }).state, "closed");
  });

  test(`${transport}: a page that does not consume stops the server and loses nothing`, async (t) => {
    const body = "x".repeat(10_000);
    const total = 3000;
    let written = 0;
    const { url } = await serve(t, async ({ response, after }) => {
      begin(response, transport);
      for (let n = nextAfter(after); n < total; n++) {
        written = Math.max(written, n);
        if (!response.write(frame(text(n, n + body)))) {
          await new Promise((resolve) => response.once("drain", resolve));
        }
      }
      response.end();
    });
    const megaphone = client(t, url, { ...options, buffer: 1 << 20, silence: 300 });
    const messages = megaphone.messages("s");
    let stable = -1;
    await until("the server is stopped", () => {
      const before = stable;
      stable = written;
      return written > 100 && before === written;
    });
    await sleep(800); // longer than silence, which does not count while the client is not reading
    assert.ok(written < 2000, `the client took ${written} of ${total} messages of 10 kB`);
    for (let n = 0; n < total; n++) {
      assert.equal((await messages.next()).value.body, n + body);
    }
  });
}

test("the client reports a gap", async (t) => {
  const { url } = await serve(t, ({ response, after }) => {
    response.writeHead(200, { "Content-Type": "application/x-ndjson", "Megaphone-Resume": after ? "gap" : "complete" });
    response.end(frames.ndjson.frame(text(nextAfter(after))));
  });
  const megaphone = client(t, url, { transports: ["ndjson"] });
  let gaps = 0;
  megaphone.on("gap", () => gaps++);
  await take(megaphone, 3);
  assert.ok(gaps >= 2);
});

test("a client continues after the cursor of another", async (t) => {
  const { url, cursors } = await serve(t, ({ response, after }) => {
    begin(response, "ndjson");
    response.end(frames.ndjson.frame(text(nextAfter(after))));
  });
  const megaphone = client(t, url, { transports: ["ndjson"], after: "e6" });
  assert.deepEqual(await take(megaphone, 1), [7]);
  assert.equal(cursors[0], "e6");
  assert.match(megaphone.cursor, /^e\d+$/);
});

test("the client does at once what a listener asks in the middle of a chunk", async (t) => {
  const { url, cursors } = await serve(t, ({ response, address, after }) => {
    begin(response, "ndjson");
    if (address === "main.c") {
      response.write([0, 1, 2].map((n) => frames.ndjson.frame(text(n))).join(""));
    } else {
      response.write(frames.ndjson.frame(text(nextAfter(after) + 100)));
    }
  });
  const megaphone = client(t, url, { transports: ["ndjson"] });
  const got: number[] = [];
  megaphone.subscribe("s", ({ body }) => {
    got.push(body);
    if (body === 0) {
      megaphone.use("main.other");
    } else {
      megaphone.close();
    }
  });
  await until("both are read", () => got.length === 2);
  await sleep(50);
  assert.deepEqual(got, [0, 100]);
  assert.deepEqual(cursors, ["", ""]);
});

test("a wall clock that jumps changes nothing", async (t) => {
  const { now } = Date;
  t.after(() => (Date.now = now));
  let jump = 0;
  Date.now = () => now() + jump;
  const { url } = await serve(t, ({ response, after, number }) => {
    jump = [-1e12, 1e12, 0, -1][number % 4]!;
    if (number % 3 === 2) {
      return response.destroy();
    }
    begin(response, "sse");
    response.end(frames.sse.frame(text(nextAfter(after))));
  });
  const began = performance.now();
  assert.deepEqual(await take(client(t, url, { transports: ["sse"] }), 30), numbers(30));
  assert.ok(performance.now() - began < 10_000);
});

test("a URL may end in slashes, and have a path", async (t) => {
  const paths: string[] = [];
  const { url } = await serve(t, ({ request, response, after }) => {
    paths.push(request.url!);
    begin(response, "ndjson");
    response.write(frames.ndjson.frame(text(nextAfter(after))));
  });
  await take(client(t, `${url}/push//`, { transports: ["ndjson"] }, "main.a-b_c"), 1);
  assert.deepEqual(paths, ["/push/read/main.a-b_c?after="]);
});
