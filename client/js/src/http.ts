// Reading over HTTP: server-sent events, NDJSON and polls. All use fetch.

import { MegaphoneError, refusal } from "./errors.js";
import { NDJSON, SSE } from "./lines.js";
import { Watchdog } from "./timer.js";
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
    const stop = () => abort.abort();
    signal.addEventListener("abort", stop);
    let fault: MegaphoneError | undefined;
    let started = false;
    const watchdog = new Watchdog(() => {
      fault = started
        ? new MegaphoneError("STALLED", `the server was silent for ${target.silence / 1000} s`)
        : new MegaphoneError("NO_START", `no reply within ${target.timeout / 1000} s`);
      stop();
    });
    try {
      watchdog.touch(target.timeout + (query ? pollTime * 1000 : 0));
      const { fetch } = target; // browsers refuse to call fetch as a method of another object
      const response = await fetch(target.url + query, {
        headers: { Accept: accept },
        cache: "no-store",
        signal: abort.signal,
      });
      if (!response.ok || !response.body) {
        throw await refusal(response);
      }
      await pass(response, target, sink, watchdog, () => (started = true), abort.signal);
      if (fault) {
        throw fault;
      }
    } catch (error) {
      if (!signal.aborted) {
        throw fault ?? error;
      }
    } finally {
      watchdog.stop();
      signal.removeEventListener("abort", stop);
      stop(); // discards the rest of the response
    }
  };
}

/** Passes messages from the response to the sink. Reads no faster than the sink takes them. */
async function pass(
  response: Response,
  target: Target,
  sink: Sink,
  watchdog: Watchdog,
  start: () => void,
  signal: AbortSignal,
): Promise<void> {
  const events = response.headers.get("Content-Type")?.startsWith("text/event-stream");
  const parser = events ? new SSE() : new NDJSON();
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
    // them back.
    begin();
    for (const text of done ? parser.end() : parser.push(value)) {
      sink.take(text);
    }
    if (done) {
      return;
    }
    const room = sink.room();
    if (room) {
      watchdog.stop();
      await room;
      if (signal.aborted) {
        return;
      }
    }
    watchdog.touch(target.silence);
  }
}

/**
 * Finds out why the server refused a WebSocket, since the browser hides that. Returns undefined if the server does not
 * refuse a plain request.
 */
export async function probe(
  { url, fetch, timeout }: Target,
  signal: AbortSignal,
): Promise<MegaphoneError | undefined> {
  const abort = new AbortController();
  const stop = () => abort.abort();
  signal.addEventListener("abort", stop);
  const watchdog = new Watchdog(stop);
  watchdog.touch(timeout);
  try {
    // A HEAD request consumes no messages.
    const response = await fetch(url, { method: "HEAD", cache: "no-store", signal: abort.signal });
    return response.ok ? undefined : await refusal(response);
  } finally {
    watchdog.stop();
    signal.removeEventListener("abort", stop);
  }
}
