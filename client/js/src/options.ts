// What the page sets in a client, and what it learns from the client.

import type { MegaphoneError } from "./errors.js";
import type { TransportName } from "./transport.js";

/**
 * The state of the connection. `idle`: nobody has subscribed yet; `connecting`: the client connects for the first time,
 * or to another channel; `open`: messages arrive as they are written; `waiting`: the client waits after a fault, until
 * the next attempt; `gone`: the channel no longer exists, see `use`; `closed`: `close` was called.
 */
export type State = "idle" | "connecting" | "open" | "waiting" | "gone" | "closed";

/** The events of `on`, each with the type of its value. */
export interface Events {
  /** The state has changed. */
  state: State;
  /** The channel has expired, was deleted, or was lost when the server restarted. Create another one. */
  gone: MegaphoneError;
  /** Messages may have been lost after the last one. Fetch again what depends on them. */
  gap: undefined;
  /** A fault. The client goes on by itself. */
  error: MegaphoneError;
}

export interface Options {
  /** The transports to use, the best first. Default: `["websocket", "sse", "ndjson", "poll"]`. */
  transports?: readonly TransportName[];
  /** The event id to continue after. It is an earlier value of `cursor`. */
  after?: string;
  /** When the signal aborts, the client closes as with `close`. */
  signal?: AbortSignal;
  /** A fetch of your own, for example one that adds a header. */
  fetch?: typeof fetch;
  /** A constructor for WebSockets. Node before version 22 has none of its own. */
  WebSocket?: unknown;
  /** The first and the longest wait after faults, in milliseconds. Default: `[500, 30000]`. */
  backoff?: readonly [number, number];
  /** How long the start of a read may take, in milliseconds. Default: 10000. */
  timeout?: number;
  /**
   * How long a connection may be silent, in milliseconds. Then the client replaces it with a new one. Default: 45000;
   * WebSocket: 120000.
   */
  silence?: number;
  /** About how many bytes of messages wait in iterators before the client stops reading. Default: 4 MiB. */
  buffer?: number;
}
