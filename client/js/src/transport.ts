// The interface between transports and the client.

/** The ways to read. */
export type TransportName = "websocket" | "sse" | "ndjson" | "poll";

/** Where and how to read. */
export interface Target {
  /** The URL to read from, with the cursor in its query. */
  url: string;
  cursor: string;
  fetch: typeof fetch;
  headers: HeadersInit | undefined;
  credentials?: RequestCredentials | undefined;
  /** The WebSocket subprotocols to offer. */
  protocols: string | string[] | undefined;
  WebSocket: typeof WebSocket | undefined;
  /** How long the start of a read may take, in milliseconds. */
  timeout: number;
  /** How long a read may be silent before it counts as broken, in milliseconds. */
  silence: number;
}

/** Takes the messages of one connection. */
export interface Sink {
  /** Called when the read has begun. gap means that messages after the cursor may have been lost. */
  opened(gap: boolean): void;
  /** Takes the JSON text of a message and returns its event id. Throws if the text is not a message. */
  take(text: string): string;
  /**
   * Returns a promise to wait for before reading on, or undefined: while messages are decoded, and while the page has
   * too many unconsumed ones.
   */
  room(): Promise<void> | undefined;
}

/**
 * Reads until the server ends the read cleanly, or the signal aborts. Throws on any fault. After it returns or throws,
 * it passes nothing more to the sink.
 */
export type Transport = (target: Target, sink: Sink, signal: AbortSignal) => Promise<void>;
