// What the application gives along with each request: query, headers, tokens, and addresses of its own.

import assert from "node:assert/strict";
import type { IncomingMessage } from "node:http";
import { test } from "node:test";
import { WebSocket } from "ws";

import type { Fault } from "../src/index.js";
import { begin, client, frames, httpTransports, nextAfter, refuse, serve, take, text, until } from "./hostile.js";

const ndjson = { transports: ["ndjson"] as const };
const { frame } = frames.ndjson;

for (const [base, want] of [
  ["/?token=a%2Fb", "/read/main.c?token=a%2Fb&after="],
  ["/api/?token=a+b~#top", "/read/main.c?token=a+b~&after="],
  ["/api", "/read/main.c?after="],
] as const) {
  test(`the query of the base URL stays as it is: ${base}`, async (t) => {
    const urls: string[] = [];
    const { url } = await serve(
      t,
      ({ request, response, after }) => {
        urls.push(request.url!);
        begin(response, request.url!.includes("poll=") ? "poll" : "ndjson");
        response.end(frame(text(nextAfter(after))));
      },
      (socket, after, _number, request) => {
        urls.push(request.url!);
        socket.send(text(nextAfter(after)));
        socket.close(1000);
      },
    );
    for (const transport of ["websocket", "sse", "ndjson", "poll"] as const) {
      urls.length = 0;
      const path = new URL(base, "http://h").pathname.replace(/\/$/, "");
      const megaphone = client(t, url + base, { transports: [transport], WebSocket });
      await take(megaphone, 2);
      megaphone.close();
      const more = transport === "poll" ? "&poll=20s" : "";
      assert.deepEqual(urls.slice(0, 2), [`${path}${want}${more}`, `${path}${want}e0${more}`]);
    }
  });
}

test("an address of one's own is read as it is, also after its channel is gone", async (t) => {
  const urls: string[] = [];
  const { url } = await serve(t, ({ request, response, number }) => {
    urls.push(request.url!);
    if (number === 1) {
      return refuse(response, 404, "NOT_FOUND");
    }
    begin(response, "ndjson");
    response.end(frame(text(number)));
  });
  const megaphone = client(t, `${url}/app/?x=1`, ndjson, { url: "/events?user=1" });
  let gone = 0;
  megaphone.on("gone", () => (gone += 1));
  assert.deepEqual(await take(megaphone, 3), [0, 2, 3]);
  const want = ["/events?user=1&after=", "/events?user=1&after=e0", "/events?user=1&after=", "/events?user=1&after=e2"];
  assert.deepEqual(urls.slice(0, 4), want);
  assert.equal(gone, 1);
});

test("headers, query and subprotocols are asked for again at each connection, with the last fault", async (t) => {
  const asked: unknown[] = [];
  let token = "old";
  const { url } = await serve(t, ({ request, response, after, number }) => {
    const query = new URL(request.url!, "http://h").searchParams;
    if (request.headers.authorization !== "Bearer new" || query.get("t") !== "new") {
      return refuse(response, 401, "UNAUTHORIZED");
    }
    begin(response, "ndjson");
    response.end(number < 4 ? frame(text(nextAfter(after))) : "");
  });
  const megaphone = client(t, url, {
    ...ndjson,
    headers: async (fault) => {
      asked.push(fault?.status);
      if (fault?.status === 401) {
        token = "new";
      }
      return { Authorization: `Bearer ${token}` };
    },
    query: (fault) => ({ t: fault ? "new" : token }),
  });
  assert.deepEqual(await take(megaphone, 2), [0, 1]);
  assert.deepEqual(asked.slice(0, 3), [undefined, 401, undefined]);
});

test("a WebSocket gets a fresh token in its query and its subprotocols", async (t) => {
  const seen: [string | null, string | undefined][] = [];
  const refused: IncomingMessage[] = [];
  const { url } = await serve(
    t,
    ({ request, response }) => {
      refused.push(request);
      refuse(response, 401, "UNAUTHORIZED");
    },
    (socket, after, _number, request) => {
      seen.push([
        new URL(request.url!, "http://h").searchParams.get("token"),
        request.headers["sec-websocket-protocol"],
      ]);
      socket.send(text(nextAfter(after)));
      socket.close(1000);
    },
  );
  let n = 0;
  const megaphone = client(t, url, {
    WebSocket,
    transports: ["websocket"],
    query: async () => ({ token: `t${++n}` }),
    protocols: () => ["megaphone", `bearer.${n}`],
  });
  assert.deepEqual(await take(megaphone, 2), [0, 1]);
  assert.deepEqual(seen.slice(0, 2).map(([token]) => token), ["t1", "t2"]);
  assert.match(seen[0]![1]!, /^megaphone,\s?bearer\./);
  assert.equal(refused.length, 0);
});

test("with headers, the client uses no WebSocket unless it is told to", async (t) => {
  const { url } = await serve(
    t,
    ({ response, after }) => {
      begin(response, "sse");
      response.end(frames.sse.frame(text(nextAfter(after))));
    },
    () => assert.fail("a WebSocket carries no headers"),
  );
  assert.deepEqual(await take(client(t, url, { WebSocket, headers: { "X-Token": "1" } }), 1), [0]);
});

for (const transport of httpTransports) {
  test(`${transport}: credentials, headers and the type to accept reach fetch`, async (t) => {
    const requests: RequestInit[] = [];
    const megaphone = client(t, "http://localhost", {
      transports: [transport],
      credentials: "include",
      headers: [["X-Token", "1"]],
      fetch: async (_url, request) => {
        requests.push(request!);
        return new Response(frames[transport].frame(text(0)), { headers: { "Content-Type": frames[transport].type } });
      },
    });
    await take(megaphone, 1);
    assert.equal(requests[0]!.credentials, "include");
    const headers = new Headers(requests[0]!.headers);
    assert.equal(headers.get("X-Token"), "1");
    assert.ok(headers.get("Accept")!.startsWith(frames[transport].type));
  });
}

for (const what of ["channel", "headers", "query"] as const) {
  test(`what the application's function for ${what} throws is reported as itself`, async (t) => {
    const { url } = await serve(t, ({ response, after }) => {
      begin(response, "ndjson");
      response.write(frame(text(nextAfter(after))));
    });
    const mine = new TypeError("the backend is away");
    let calls = 0;
    let channels = 0;
    const fail = (): never | undefined => {
      if (++calls < 3) {
        throw mine;
      }
      return undefined;
    };
    const channel = () => {
      channels++;
      if (what === "channel") {
        fail();
      }
      return "main.c";
    };
    const options = {
      headers: () => ((what === "headers" && fail()) || {}) as Record<string, string>,
      query: async () => ((what === "query" && fail()) || {}) as Record<string, string>,
    };
    const megaphone = client(t, url, { ...ndjson, ...options }, channel);
    const errors: Fault[] = [];
    megaphone.on("error", (error) => errors.push(error));
    assert.deepEqual(await take(megaphone, 1), [0]);
    assert.deepEqual(errors, [mine, mine]);
    assert.ok(errors.every((error) => error === mine));
    assert.equal(channels, what === "channel" ? 3 : 1, "each call may create a channel");
  });
}

test("a function that never answers does not keep the client from using another channel", async (t) => {
  const { url } = await serve(t, ({ response }) => {
    begin(response, "ndjson");
    response.write(frame(text(0)));
  });
  let hang = true;
  const megaphone = client(t, url, { ...ndjson, query: () => (hang ? new Promise(() => {}) : {}) });
  const messages = megaphone.messages("s");
  await until("it connects", () => megaphone.state === "connecting");
  hang = false;
  megaphone.use("main.other");
  assert.equal((await messages.next()).value.body, 0);
});
