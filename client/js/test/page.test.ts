// What a browser tells, by stand-ins for its window and document.

import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { begin, client, frames, nextAfter, numbers, serve, sleep, take, text, until } from "./hostile.js";

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
    // Clients are closed after this, and still remove their listeners.
    delete globals.document;
    delete globals.addEventListener;
  });
  const show = (hidden: boolean) => {
    document.hidden = hidden;
    document.dispatchEvent(new Event("visibilitychange"));
  };
  return { window, document, show };
}

test("coming online, or being shown, ends the wait after faults", async (t) => {
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

test("a connection from before the page was online is made anew; one of a page that was hidden for a moment is not", async (t) => {
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
  await until("it reads anew", () => got.length === 2);
  window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  await until("it reads anew", () => got.length === 3);
  show(true);
  const { now } = Date;
  t.after(() => (Date.now = now));
  Date.now = () => now() + 60_000; // the machine slept
  show(false);
  await until("it reads anew", () => got.length === 4);
  assert.deepEqual(got, numbers(4));
});

test("a client that is closed listens to the page no more", async (t) => {
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
