// Reading over HTTP: server-sent events, NDJSON and polls. All use fetch.

import { MegaphoneError, refusal } from "./errors.js";
import { Parser } from "./lines.js";
import { Watchdog, aborted } from "./timer.js";
import type { Sink, Target, Transport } from "./transport.js";

/** How long a poll waits at the server, in seconds. */
const pollTime = 20;

/**
 * This does not use EventSource. An EventSource hides the status of a refusal and the heartbeats, and it cannot read
 * more slowly. A server without server-sent events may reply with NDJSON.
 */
export const sse = transport("text/event-stream, application/x-ndjson;q=0.5", "");
export const ndjson = transport("application/x-ndjson", "");
export const poll = transport("application/x-ndjson", `&poll=${pollTime}s`);

function transport(accept: string, query: string): Transport {
  return async (target, sink, signal) => {
    const abort = new AbortController();
    let fault: MegaphoneError | undefined;
    let started = false;
    const watchdog = new Watchdog(signal, () => {
      fault = started
        ? new MegaphoneError("STALLED", `the server was silent for ${target.silence / 1000} s`)
        : new MegaphoneError("NO_START", `no reply within ${target.timeout / 1000} s`);
      abort.abort();
    });
    try {
      watchdog.touch(target.timeout + (query ? pollTime * 1000 : 0));
      const response = await request(target, query, accept, abort.signal);
      await pass(response, target, sink, watchdog, () => (started = true), abort.signal);
      if (fault) {
        throw fault;
      }
    } catch (error) {
      if (!signal.aborted) {
        throw fault ?? error;
      }
    } finally {
      watchdog.end();
      abort.abort(); // discards the rest of the response
    }
  };
}

/** Sends a request. Throws unless the reply is a stream of messages. A HEAD request has no reason to accept a type. */
async function request(
  { url, fetch, headers, credentials }: Target, // browsers refuse to call fetch as a method of another object
  query: string,
  accept: string | undefined,
  signal: AbortSignal,
): Promise<Response> {
  const all = new Headers(headers);
  if (accept) {
    all.set("Accept", accept);
  }
  const reply = fetch(url + query, {
    method: accept ? "GET" : "HEAD",
    headers: all,
    cache: "no-store",
    credentials: credentials!, // undefined is the same as leaving it out
    signal,
  });
  const response = await Promise.race([reply, aborted(signal)]); // the application's fetch may ignore the signal
  if (!response.ok || !streams.test(response.headers.get("Content-Type")!) || (accept && !response.body)) {
    throw await refusal(response);
  }
  return response;
}

/** The content types of streams of messages. Anything else is not from Megaphone: a page of the site, for example. */
const streams = /^(application\/x-ndjson|text\/event-stream)\b/i;

/** Passes messages from the response to the sink. Reads no faster than the sink takes them. */
async function pass(
  response: Response,
  target: Target,
  sink: Sink,
  watchdog: Watchdog,
  start: () => void,
  signal: AbortSignal,
): Promise<void> {
  const events = /^text/i.test(response.headers.get("Content-Type")!);
  const parser = new Parser(events);
  let open = false;
  const begin = () => {
    if (!open) {
      open = true;
      start();
      sink.opened(response.headers.get("Megaphone-Resume") === "gap");
    }
  };
  if (!events) {
    begin();
    watchdog.touch(target.silence);
  }
  const reader = response.body!.getReader();
  // Aborting the request does not always end a waiting read on every platform (Node 20).
  signal.addEventListener("abort", () => reader.cancel().catch(() => {}));
  for (;;) {
    const { done, value } = await reader.read();
    if (signal.aborted) {
      return;
    }
    // A server sends the first bytes of server-sent events at once. If they do not arrive, something on the way holds
    // them back. If there are none at all, the server is not Megaphone.
    if (done && !open) {
      throw await refusal(response);
    }
    begin();
    for (const text of done ? parser.end() : parser.push(value)) {
      sink.take(text);
    }
    if (done) {
      return;
    }
    const room = sink.room();
    if (room) {
      watchdog.pause();
      await room;
      if (signal.aborted) {
        return;
      }
    }
    watchdog.touch(target.silence);
  }
}

/** Throws the reason why the server refused a WebSocket, since the browser hides that, unless it serves plain requests. */
export async function probe(target: Target, signal: AbortSignal): Promise<void> {
  const abort = new AbortController();
  const watchdog = new Watchdog(signal, () => abort.abort());
  watchdog.touch(target.timeout);
  try {
    await request(target, "", undefined, abort.signal); // a HEAD request consumes no messages
  } finally {
    watchdog.end();
  }
}
