// Tests of what a browser reports about the page. They use stand-ins for window and document.

import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { begin, client, frames, nextAfter, numbers, refuse, serve, sleep, take, text, until } from "./hostile.js";

/** Makes this process look like a page, until the test ends. */
function page(t: TestContext): {
  window: EventTarget;
  document: EventTarget & { hidden: boolean };
  show(hidden: boolean): void;
} {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { hidden: false });
  const globals = globalThis as any;
  globals.document = document;
  globals.addEventListener = window.addEventListener.bind(window);
  globals.removeEventListener = window.removeEventListener.bind(window);
  t.after(() => {
    // Clients close later and then remove their listeners, so removeEventListener stays.
    delete globals.document;
    delete globals.addEventListener;
  });
  const show = (hidden: boolean) => {
    document.hidden = hidden;
    document.dispatchEvent(new Event("visibilitychange"));
  };
  return { window, document, show };
}

test("the wait after faults ends when the browser comes online or the page is shown", async (t) => {
  const { window, show } = page(t);
  const { url, cursors } = await serve(t, ({ response }) => response.destroy());
  const megaphone = client(t, url, { transports: ["ndjson"], backoff: [60_000, 60_000] });
  let faults = 0;
  megaphone.on("error", () => (faults += 1));
  megaphone.subscribe(() => {});
  await until("it waits", () => faults === 1);
  window.dispatchEvent(new Event("online"));
  await until("it has tried again", () => faults === 2);
  show(true);
  show(false);
  await until("it has tried again", () => cursors.length === 3);
});

test("coming online replaces a connection; hiding the page for a moment does not", async (t) => {
  const { window, show } = page(t);
  const { url, cursors } = await serve(t, ({ response, after }) => {
    begin(response, "ndjson");
    response.write(frames.ndjson.frame(text(nextAfter(after))));
  });
  const megaphone = client(t, url, { transports: ["ndjson"] });
  megaphone.on("error", assert.fail);
  const got: number[] = [];
  megaphone.subscribe("s", ({ body }) => got.push(body));
  await until("it reads", () => got.length === 1);
  show(true);
  show(false);
  await sleep(100);
  assert.equal(cursors.length, 1);

  window.dispatchEvent(new Event("online"));
  await until("it reads again", () => got.length === 2);
  window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  await until("it reads again", () => got.length === 3);
  show(true);
  const { now } = Date;
  t.after(() => (Date.now = now));
  Date.now = () => now() + 60_000; // the machine slept
  show(false);
  await until("it reads again", () => got.length === 4);
  assert.deepEqual(got, numbers(4));
});

test("coming online replaces an attempt that began before", async (t) => {
  const { window } = page(t);
  const { url, cursors } = await serve(t, ({ response, after, number }) => {
    if (number === 0) {
      return response.destroy();
    }
    if (number > 1) {
      begin(response, "ndjson");
      response.write(frames.ndjson.frame(text(nextAfter(after))));
    } // else: the server never replies
  });
  const megaphone = client(t, url, { transports: ["ndjson"], timeout: 60_000 });
  const got: number[] = [];
  megaphone.subscribe("s", ({ body }) => got.push(body));
  await until("the second attempt has begun", () => cursors.length === 2);
  window.dispatchEvent(new Event("online"));
  await until("it reads", () => got.length === 1, 5000);
});

test("coming online does not shorten the time that the server asks for", async (t) => {
  const { window, show } = page(t);
  const times: number[] = [];
  const { url } = await serve(t, ({ response }) => {
    times.push(performance.now());
    refuse(response, 429, "LIMIT_REACHED", { "Retry-After": "1" });
  });
  const megaphone = client(t, url, { transports: ["ndjson"] });
  megaphone.subscribe(() => {});
  await until("it waits", () => megaphone.state === "waiting");
  window.dispatchEvent(new Event("online"));
  show(true);
  show(false);
  await until("it has tried again", () => times.length === 2);
  assert.ok(times[1]! - times[0]! >= 990, `${times[1]! - times[0]!} ms`);
});

test("the wait after faults also ends if use has set another channel meanwhile", async (t) => {
  const { window } = page(t);
  const { url } = await serve(t, ({ response, address, after }) => {
    if (address === "main.c") {
      return response.destroy();
    }
    begin(response, "ndjson");
    response.write(frames.ndjson.frame(text(nextAfter(after))));
  });
  const megaphone = client(t, url, { transports: ["ndjson"], backoff: [60_000, 60_000] });
  const got: number[] = [];
  megaphone.subscribe("s", ({ body }) => got.push(body));
  await until("it waits", () => megaphone.state === "waiting");
  megaphone.use("main.other");
  window.dispatchEvent(new Event("online"));
  await until("it reads", () => got.length === 1, 5000);
});

test("coming online while a channel is created does not create a second one", async (t) => {
  const { window } = page(t);
  const { url, addresses } = await serveAddresses(t);
  let created = 0;
  const megaphone = client(t, url, { transports: ["ndjson"] }, async () => {
    const address = `main.c${++created}`;
    await sleep(100);
    return address;
  });
  megaphone.subscribe(() => {});
  await until("it creates", () => created === 1);
  window.dispatchEvent(new Event("online"));
  window.dispatchEvent(new Event("online"));
  await until("it reads", () => megaphone.state === "open");
  assert.equal(created, 1);
  assert.deepEqual(addresses, ["main.c1"]);
});

test("a page that opens in the background and is shown much later replaces its connection", async (t) => {
  const { document, show } = page(t);
  document.hidden = true;
  const { url, addresses } = await serveAddresses(t);
  const megaphone = client(t, url, { transports: ["ndjson"] });
  megaphone.subscribe(() => {});
  await until("it reads", () => megaphone.state === "open");
  const { now } = Date;
  t.after(() => (Date.now = now));
  Date.now = () => now() + 60_000;
  show(false);
  await until("it reads again", () => addresses.length === 2, 5000);
});

/** Serves reads without messages. Keeps the addresses that were read. */
async function serveAddresses(t: TestContext): Promise<{ url: string; addresses: string[] }> {
  const addresses: string[] = [];
  const { url } = await serve(t, ({ response, address }) => {
    addresses.push(address);
    begin(response, "ndjson");
  });
  return { url, addresses };
}

test("a closed client no longer listens to the page", async (t) => {
  const { window } = page(t);
  const { url, cursors } = await serve(t, ({ response, after }) => {
    begin(response, "ndjson");
    response.write(frames.ndjson.frame(text(nextAfter(after))));
  });
  const megaphone = client(t, url, { transports: ["ndjson"] });
  await take(megaphone, 1);
  megaphone.close();
  window.dispatchEvent(new Event("online"));
  await sleep(50);
  assert.equal(cursors.length, 1);
});
