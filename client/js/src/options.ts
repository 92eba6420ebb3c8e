// What the page sets in a client, and what it learns from the client.

import type { Schema } from "./decode.js";
import type { Debug } from "./emitter.js";
import type { MegaphoneError } from "./errors.js";
import type { End, Message } from "./streams.js";
import type { TransportName } from "./transport.js";

/**
 * The state of the connection. `idle`: nobody has subscribed yet; `connecting`: the client connects, for the first time
 * or again; `open`: messages arrive as they are written; `waiting`: the client waits after a fault, until the next
 * attempt; `gone`: the channel no longer exists, see `use`; `closed`: `close` was called.
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
  /** The stream has ended. */
  end: End;
  /** The channel was full, so it has missed messages of topics: `missed` of this message says how many. */
  missed: Message & { missed: number };
  /**
   * A fault. The client goes on by itself. What a function of yours has thrown is here as it is; all else is a
   * `MegaphoneError`. If nobody listens, the console gets the first of each `code`.
   */
  error: Fault;
}

/** A `MegaphoneError`, or an error that a function of the application has thrown. */
export type Fault = MegaphoneError | (Error & { [K in Exclude<keyof MegaphoneError, keyof Error>]?: undefined });

/**
 * A value, or a function that returns it or a promise of it. The client calls the function before each connection. Its
 * argument is the fault of the last attempt, if that failed: with `status` 401, get another token.
 */
export type Asked<Value> = Value | ((fault?: Fault) => Value | Promise<Value>);

export interface Options<Bodies extends object = Record<string, any>> {
  /** The transports to use, the best first. Default: `["websocket", "sse", "ndjson", "poll"]`. */
  transports?: readonly TransportName[];
  /** The event id to continue after. It is an earlier value of `cursor`. */
  after?: string;
  /** When the signal aborts, the client closes as with `close`. */
  signal?: AbortSignal;
  /**
   * Headers of requests. A WebSocket can carry none, so with this option, the default of `transports` is without
   * `websocket`.
   */
  headers?: Asked<HeadersInit>;
  /** Parameters for the query, in all transports: `() => ({ token: newest })`. */
  query?: Asked<Record<string, string>>;
  /** WebSocket subprotocols. The site must name one of them in `websocket_protocols`. */
  protocols?: Asked<string | string[]>;
  /** Whether requests carry cookies, as in `fetch`. A WebSocket always carries them. */
  credentials?: RequestCredentials;
  /** Returns the body that listeners get, or a promise of it. If it throws, the message is dropped: see `error`. */
  decode?: (message: Message<unknown>) => unknown;
  /** A schema for each stream whose bodies to check, of any library that follows Standard Schema. */
  schemas?: { [StreamId in keyof Bodies]?: Schema<Bodies[StreamId]> };
  /** Logs to the console, or to a function of yours. Log lines have no secrets except what errors say. */
  debug?: boolean | Debug;
  /** A fetch of your own. */
  fetch?: typeof fetch;
  /** A constructor for WebSockets. Node before version 22 has none of its own. */
  WebSocket?: unknown;
  /** The first and the longest wait after faults, in milliseconds. Default: `[500, 30000]`. */
  backoff?: readonly [number, number];
  /** How long the start of a read may take, in milliseconds. Default: 10000. */
  timeout?: number;
  /**
   * How long the client waits for a function of yours, in milliseconds: the channel's, `headers`, `query`, `protocols`,
   * `decode`, or a schema. Default: 30000.
   */
  patience?: number;
  /**
   * How long a connection may be silent, in milliseconds. Then the client replaces it with a new one. Default: 45000;
   * WebSocket: 120000.
   */
  silence?: number;
  /** About how many bytes of messages wait in iterators before the client stops reading. Default: 4 MiB. */
  buffer?: number;
}
