// The worker that reads for all tabs, with stand-ins for SharedWorker. A test in a real browser is in integration/browser.

import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { Megaphone, type Fault } from "../src/index.js";
import { connect, share, type Tab } from "../src/shared.js";
import { begin, frames, nextAfter, refuse, serve, text, until } from "./hostile.js";

/** Runs share in this process, and returns a function that makes its SharedWorker. */
function worker(t: TestContext, create: () => Tab): () => SharedWorker {
  share(create);
  const { onconnect } = globalThis as any;
  return () => {
    const { port1, port2 } = new MessageChannel();
    t.after(() => [port1, port2].forEach((port) => port.close()));
    onconnect({ ports: [port2] });
    return { port: port1 } as unknown as SharedWorker;
  };
}

test("tabs share one connection, and each gets every message and event", async (t) => {
  let reads = 0;
  let write!: (n: number) => void;
  const { url } = await serve(t, ({ response }) => {
    if (reads++ === 0) {
      return refuse(response, 500, "INTERNAL_SERVER_ERROR");
    }
    begin(response, "ndjson");
    write = (n) => response.write(frames.ndjson.frame(text(n)));
  });
  let created = 0;
  let listening = false;
  const make = worker(t, () => {
    created++;
    const client = new Megaphone(url, "main.c", { transports: ["ndjson"], backoff: [10, 20] });
    const subscribe = client.subscribe.bind(client) as (listener: () => void) => () => void;
    client.subscribe = (listener: any) => {
      const unsubscribe = subscribe(listener);
      listening = true;
      return () => {
        listening = false;
        unsubscribe();
      };
    };
    return client;
  });
  const tabs = [1, 2].map(() => connect(make, () => assert.fail("there is a worker")));
  t.after(() => tabs.forEach((tab) => tab.close()));
  const got: [unknown[], unknown[]] = [[], []];
  const errors: Fault[] = [];
  tabs[0]!.on("error", (error) => errors.push(error));
  tabs[1]!.on("error", () => {});
  tabs[0]!.subscribe("s", ({ body }) => got[0].push(body));
  tabs[1]!.subscribe(({ body }) => got[1].push(body));
  await until("it is open", () => tabs.every(({ state }) => state === "open"));
  assert.ok(errors[0] instanceof Error);
  assert.deepEqual(
    [errors[0].name, errors[0].code, errors[0].status],
    ["MegaphoneError", "INTERNAL_SERVER_ERROR", 500],
  );
  write(0);
  await until("both have it", () => got.every((bodies) => bodies.length === 1));
  tabs[0]!.close();
  assert.equal(tabs[0]!.state, "closed");
  write(1);
  await until("the other has it", () => got[1].length === 2);
  assert.deepEqual(got, [[0], [0, 1]]);

  // Between two pages of one tab, messages wait.
  tabs[1]!.close();
  await until("the worker has no tab", () => !listening);
  write(2);
  const next = connect(make, () => assert.fail("there is a worker"));
  t.after(() => next.close());
  const messages = next.messages("s");
  assert.equal((await messages.next()).value.body, 2);
  assert.deepEqual([created, reads], [1, 2]);
});

for (const [what, make] of Object.entries<() => SharedWorker>({
  "the browser has no SharedWorker": () => new SharedWorker("/worker.js"),
  "the worker's script does not load": () => {
    const { port1 } = new MessageChannel();
    const shared = { port: port1, onerror: () => {} };
    setTimeout(() => shared.onerror());
    return shared as unknown as SharedWorker;
  },
})) {
  test(`the tab reads the channel by itself if ${what}`, async (t) => {
    const { url } = await serve(t, ({ response, after }) => {
      begin(response, "ndjson");
      response.write(frames.ndjson.frame(text(nextAfter(after))));
    });
    const tab = connect<{ s: number }>(make, () => new Megaphone(url, "main.c", { transports: ["ndjson"] }));
    t.after(() => tab.close());
    const { body, sid } = (await tab.messages("s").next()).value;
    assert.deepEqual([sid, body], ["s", 0]);
    assert.equal(tab.state, "open");
    tab.close();
    assert.equal(tab.state, "closed");
  });
}

test("a tab that is hidden and shown before the worker has answered does not read by itself", async (t) => {
  const page = new EventTarget();
  (globalThis as any).addEventListener = page.addEventListener.bind(page);
  t.after(() => delete (globalThis as any).addEventListener);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { port1, port2 } = new MessageChannel();
  t.after(() => [port1, port2].forEach((port) => port.close()));
  const tab = connect(() => ({ port: port1 }) as unknown as SharedWorker, () => assert.fail("there is a worker"));
  t.after(() => tab.close());
  page.dispatchEvent(new Event("pagehide"));
  page.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  const opened = new Promise((resolve) => tab.on("state", resolve));
  port2.postMessage(["state", "open"]);
  await opened;
  t.mock.timers.tick(60_000);
  assert.equal(tab.state, "open");
});
