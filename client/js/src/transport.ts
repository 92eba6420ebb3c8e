// What transports and the client know of each other.

/** The ways to read. */
export type TransportName = "websocket" | "sse" | "ndjson" | "poll";

/** Where and how to read. */
export interface Target {
  /** The address of the channel's reads, with the cursor in its query. */
  url: string;
  cursor: string;
  fetch: typeof fetch;
  WebSocket: typeof WebSocket | undefined;
  /** How long the start of a read may take, in milliseconds. */
  timeout: number;
  /** How long a read may be silent before it counts as broken, in milliseconds. */
  silence: number;
}

/** What takes the messages of one connection. */
export interface Sink {
  /** The read has begun; gap: messages after the cursor may have been lost. */
  opened(gap: boolean): void;
  /** Takes the JSON text of a message and returns its event id. Throws when it is no message. */
  take(text: string): string;
  /** Waits while the page has more unconsumed messages than it may; undefined if it has not. */
  room(): Promise<void> | undefined;
}

/**
 * Reads until the server ends the read cleanly, or the signal aborts it. Throws on faults, of whatever kind.
 * Nothing is taken by the sink after the end.
 */
export type Transport = (target: Target, sink: Sink, signal: AbortSignal) => Promise<void>;
