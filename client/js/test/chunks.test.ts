// The client reads streams over HTTP correctly, however they are split into chunks, and wherever they break off.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begin, client, frames, httpTransports, nextAfter, numbers, serve, take, text, until } from "./hostile.js";

for (const transport of httpTransports) {
  const { frame, type } = frames[transport];
  const options = { transports: [transport] };

  test(`${transport}: a stream cut in two chunks, at every byte`, async (t) => {
    const bytes = new TextEncoder().encode([0, 1, 2].map((n) => frame(text(n, n === 1 ? "ü🎉" : n))).join(""));
    for (let cut = 1; cut < bytes.length; cut++) {
      const chunks = [bytes.subarray(0, cut), bytes.subarray(cut)];
      const megaphone = client(t, "http://localhost", {
        ...options,
        fetch: async (url) => {
          assert.ok(new URL(String(url)).searchParams.get("after") === "", "a fault made the client read again");
          const body = new ReadableStream({
            pull: (controller) => {
              const chunk = chunks.shift();
              if (chunk) {
                controller.enqueue(chunk);
              } // then the server is silent
            },
          });
          return new Response(body, { headers: { "Content-Type": type } });
        },
      });
      assert.deepEqual(await take(megaphone, 3), [0, "ü🎉", 2], `cut at ${cut}`);
      megaphone.close();
    }
  });

  test(`${transport}: one byte per packet`, async (t) => {
    const { url } = await serve(t, async ({ response, after }) => {
      begin(response, transport);
      response.socket!.setNoDelay(true);
      for (const byte of Buffer.from(frame(text(nextAfter(after))))) {
        response.write(Buffer.of(byte));
        await new Promise(setImmediate);
      }
      response.end();
    });
    assert.deepEqual(await take(client(t, url, options), 3), numbers(3));
  });

  test(`${transport}: connections that break in the middle of a message`, async (t) => {
    const { url, cursors } = await serve(t, ({ response, after }) => {
      begin(response, transport);
      const n = nextAfter(after);
      response.write(frame(text(n)) + frame(text(n + 1)).slice(0, 10), () => setTimeout(() => response.destroy(), 5));
    });
    assert.deepEqual(await take(client(t, url, options), 10), numbers(10));
    assert.deepEqual(cursors, ["", ...numbers(9).map((n) => `e${n}`)]);
  });

  test(`${transport}: chunked bodies that break off, at every byte`, async (t) => {
    const whole = (n: number) => {
      const data = frame(text(n)) + frame(text(n + 1));
      const head = `HTTP/1.1 200 OK\r\nContent-Type: ${type}\r\nTransfer-Encoding: chunked\r\n\r\n`;
      return `${head}${data.length.toString(16)}\r\n${data}\r\n0\r\n\r\n`;
    };
    const { url, cursors } = await serve(t, ({ response, after, number }) => {
      response.socket!.end(whole(nextAfter(after)).slice(0, number));
    });
    const cuts = whole(100).length;
    const megaphone = client(t, url, { ...options, backoff: [1, 1] });
    const got: number[] = [];
    megaphone.subscribe("s", ({ body }) => got.push(body));
    await until("all is read", () => cursors.length > cuts);
    megaphone.close();
    assert.ok(got.length > 50, `${got.length} messages`);
    assert.deepEqual(got, numbers(got.length));
  });

  test(`${transport}: lines that end in CRLF`, async (t) => {
    const { url } = await serve(t, ({ response, after }) => {
      begin(response, transport);
      const n = nextAfter(after);
      response.end((frame(text(n)) + frame(text(n + 1))).replaceAll("\n", "\r\n"));
    });
    const megaphone = client(t, url, options);
    megaphone.on("error", assert.fail);
    assert.deepEqual(await take(megaphone, 10), numbers(10));
  });

  test(`${transport}: a clean end in the middle of a message`, async (t) => {
    const { url } = await serve(t, ({ response, after }) => {
      begin(response, transport);
      const n = nextAfter(after);
      response.end(frame(text(n)) + frame(text(n + 1)).slice(0, 20));
    });
    assert.deepEqual(await take(client(t, url, options), 10), numbers(10));
  });
}
