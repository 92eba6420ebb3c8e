// Tests of the client against a server that follows the protocol. The connections fail at random, in every way.

import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { test } from "node:test";
import { WebSocket } from "ws";

import type { TransportName } from "../src/index.js";
import { begin, client, frames, nextAfter, numbers, refuse, serve, text, type HTTPTransport } from "./hostile.js";

const total = 400;
const all: readonly TransportName[] = ["websocket", "sse", "ndjson", "poll"];

/** Returns a generator of numbers from 0 to 1. The same seed gives the same numbers. */
function random(seed: number): () => number {
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
    return (seed >>> 0) / 2 ** 32;
  };
}

/** Refuses the read, or writes some messages after the cursor and some from before it. Then ends in some way. */
function misbehave(draw: () => number, transport: HTTPTransport, after: string, response: ServerResponse): void {
  const { frame, type } = frames[transport];
  switch (Math.floor(draw() * 8)) {
    case 0:
      return refuse(response, 503, "TIMEOUT");
    case 1:
      return refuse(response, 409, "BUSY");
    case 2:
      return void response.destroy();
    case 3:
      return void response.writeHead(200, { "Content-Type": type }).flushHeaders(); // then stalls
  }
  const first = Math.max(0, nextAfter(after) - Math.floor(draw() * 10)); // as if the server had not found the cursor
  const last = Math.min(total, nextAfter(after) + Math.floor(draw() * 20));
  const lines = numbers(last)
    .slice(first)
    .map((n) => frame(text(n)))
    .join("");
  const cut = draw() < 0.5 ? lines.length : Math.floor(draw() * lines.length);
  begin(response, transport);
  const chunk = 1 + Math.floor(draw() * 200);
  for (let i = 0; i < cut; i += chunk) {
    response.write(lines.slice(i, Math.min(cut, i + chunk)));
  }
  const end = draw();
  if (end < 0.4) {
    response.end();
  } else if (end < 0.8) {
    setTimeout(() => response.destroy(), draw() * 10);
  } // else: stalls
}

for (const transports of [...all.map((name) => [name]), all]) {
  test(`${transports}: despite random faults, every message arrives once and in order`, async (t) => {
    const seed = Date.now() & 0xffff;
    t.diagnostic(`seed ${seed}`);
    const draw = random(seed);
    const { url } = await serve(
      t,
      ({ request, response, after }) => {
        if (request.method === "HEAD") {
          return refuse(response, 503, "TIMEOUT");
        }
        const polls = request.url!.includes("poll=");
        misbehave(
          draw,
          polls ? "poll" : request.headers.accept!.startsWith("text/") ? "sse" : "ndjson",
          after,
          response,
        );
      },
      (socket, after) => {
        const first = Math.max(0, nextAfter(after) - Math.floor(draw() * 10));
        const last = Math.min(total, nextAfter(after) + Math.floor(draw() * 20));
        numbers(last)
          .slice(first)
          .forEach((n) => socket.send(text(n)));
        const end = draw();
        if (end < 0.4) {
          socket.close([1000, 1001, 1011, 4409, 4400][Math.floor(draw() * 5)]);
        } else if (end < 0.8) {
          setTimeout(() => socket.terminate(), draw() * 10);
        }
      },
    );
    const megaphone = client(t, url, { transports, WebSocket, backoff: [1, 5], timeout: 40, silence: 40 });
    const got: number[] = [];
    for await (const { body } of megaphone.messages("s")) {
      if (got.push(body) === total) {
        break;
      }
    }
    assert.deepEqual(got, numbers(total), `seed ${seed}`);
  });
}
