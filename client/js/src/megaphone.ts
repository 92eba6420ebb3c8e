// The client. It reads one channel until it is closed, whatever happens to connections.

import { Backoff } from "./backoff.js";
import { ask, resolve, type ChannelSource } from "./channel.js";
import { decode } from "./decode.js";
import { Emitter } from "./emitter.js";
import { MegaphoneError, asFault } from "./errors.js";
import { ndjson, poll, probe, sse } from "./http.js";
import type { Events, Fault, Options, State } from "./options.js";
import { watchPage } from "./page.js";
import { Seen } from "./seen.js";
import { Streams, type AnyMessage, type End, type Listener, type Message } from "./streams.js";
import { Pause, aborted } from "./timer.js";
import type { Sink, Target, Transport, TransportName } from "./transport.js";
import { websocket } from "./websocket.js";

const transports: Record<TransportName, Transport> = { websocket, sse, ndjson, poll };

/**
 * The longest time that a server can make the client wait, and, if a transport failed and another one worked, how long the
 * client avoids the first, in milliseconds.
 */
const longest = 300_000;

/** If a read lasts at least this long, in milliseconds, the next one follows at once. */
const shortest = 1000;

/** Reads a channel. `Bodies` has the type of each stream's body: `new Megaphone<{ news: News; chat: Chat }>(…)`. */
export class Megaphone<Bodies extends object = Record<string, any>> extends Emitter<Events> {
  #base: string;
  #source: ChannelSource | undefined;
  #options: Options<Bodies>;
  #WebSocket: typeof WebSocket | undefined;

  #state: State = "idle";
  #transport: TransportName | undefined;
  #located: Promise<string> | undefined; // where to read
  #cursor: string;
  #seen = new Seen();
  #streams: Streams;
  #decoding: Promise<void> | undefined; // ends when all messages are decoded

  #backoff: Backoff;
  #due = 0; // the earliest time for the next read, on the clock of performance.now
  #asked = 0; // the earliest time that the server asks for
  #fault: Fault | undefined; // why the last attempt failed
  #pause = new Pause();
  #connection: AbortController | undefined;
  #worked = false; // whether any connection to the current channel was good
  #fresh = 0; // how many new messages the current connection has brought
  #avoided = new Map<TransportName, number>(); // the time until which to avoid each transport
  #life = new AbortController(); // aborts when the client closes

  /**
   * Reading begins with the first call of `subscribe` or `messages`.
   *
   * @param url the URL before `/read/…`: `https://app.example.com`, or `/` on a page of the same site. It may have a query
   * @param channel the channel, or a function that creates it. When the channel is gone, the client calls it again
   */
  constructor(url: string | URL, channel: ChannelSource, options: Options<Bodies> = {}) {
    super(options.debug);
    this.#base = new URL(url, globalThis.location?.href).href;
    this.#source = channel;
    this.#options = options;
    this.#cursor = options.after ?? "";
    this.#WebSocket = (options.WebSocket ?? globalThis.WebSocket) as typeof WebSocket | undefined;
    this.#backoff = new Backoff(...(options.backoff ?? [500, 30_000]));
    this.#streams = new Streams(options.buffer ?? 4 << 20);
    options.signal?.addEventListener("abort", () => this.close(), { signal: this.#life.signal });
    if (options.signal?.aborted) {
      this.close();
    }
  }

  /** The state of the connection. */
  get state(): State {
    return this.#state;
  }

  /** The transport of the current connection, or of the last one. */
  get transport(): TransportName | undefined {
    return this.#transport;
  }

  /** The event id of the newest message. Keep it to continue after that message in another page or process. */
  get cursor(): string {
    return this.#cursor;
  }

  /**
   * Calls a listener for each message of a stream, or of all streams, and `end` when the stream ends. Returns a function
   * that removes the listener. If a stream has no listener, its messages wait for one. Only the newest 100 such messages
   * are kept.
   */
  subscribe(listener: (message: AnyMessage<Bodies>) => void): () => void;
  subscribe<StreamId extends keyof Bodies & string>(
    streamId: StreamId,
    listener: Listener<Bodies[StreamId], StreamId>,
    end?: (end: End<StreamId>) => void,
  ): () => void;
  subscribe(stream: string | ((message: any) => void), listener?: any, end?: any): () => void {
    this.#start();
    return typeof stream === "string"
      ? this.#streams.subscribe(stream, listener, end)
      : this.#streams.subscribe(undefined, stream);
  }

  /**
   * Returns an iterator over the messages of a stream, or of all streams. It ends when its stream ends, when the client
   * closes, when its signal aborts, or when you leave the loop over it. If the stream's producer has died, the loop
   * throws an error with the code `ABORTED`. While iterators hold as many bytes as `buffer` allows, the client reads
   * nothing more.
   */
  messages<StreamId extends keyof Bodies & string>(
    streamId: StreamId,
    options?: { signal?: AbortSignal },
  ): AsyncIterableIterator<Message<Bodies[StreamId], StreamId>>;
  messages(streamId?: undefined, options?: { signal?: AbortSignal }): AsyncIterableIterator<AnyMessage<Bodies>>;
  messages(streamId?: string, options?: { signal?: AbortSignal }): AsyncIterableIterator<any> {
    this.#start();
    return this.#streams.iterate(streamId, options?.signal);
  }

  /** Goes on with another channel, after `gone` for example. All listeners and iterators stay. */
  use(channel: ChannelSource): void {
    this.#source = channel;
    this.#forget();
    if (this.#state !== "idle") {
      this.#set("connecting");
    }
    this.#connection?.abort();
    this.#pause.end();
  }

  /** Closes the client for good. Iterators still return the messages that they hold. */
  close(): void {
    this.#connection?.abort();
    this.#set("closed");
    this.#pause.end();
    this.#life.abort();
    this.#streams.close();
  }

  get #over(): boolean {
    return this.#state === "closed";
  }

  #start(): void {
    if (this.#state !== "idle") {
      return;
    }
    this.#set("connecting");
    watchPage((renew) => {
      if (this.#state !== "open") {
        this.#backoff.reset();
        this.#due = this.#asked;
        this.#pause.end();
      }
      if (renew) {
        this.#connection?.abort(); // may also be an attempt to connect
      }
    }, this.#life.signal);
    queueMicrotask(() => this.#run());
  }

  /** Reads until the client is closed. */
  async #run(): Promise<void> {
    while (!this.#over) {
      await this.#room();
      if (this.#over) {
        return;
      }
      const wait = this.#source ? this.#due - performance.now() : Infinity; // without a channel, wait for use
      if (wait > 0) {
        await this.#pause.wait(wait);
        continue;
      }
      const connection = (this.#connection = new AbortController());
      const began = performance.now();
      this.#fresh = 0;
      if (this.#state !== "open") {
        this.#set("connecting");
      }
      try {
        await this.#read(connection.signal);
        await this.#decoding; // which counts the messages
        if (!connection.signal.aborted && !this.#good(began)) {
          this.#due = performance.now() + Math.min(this.#backoff.next(), shortest); // prevents a busy loop if reads end at once
        }
      } catch (error) {
        await this.#decoding; // listeners get the last messages before the fault
        if (!connection.signal.aborted) {
          this.#good(began);
          this.#handle(asFault(error));
        }
      }
    }
  }

  /** Reports whether the last connection was good: it brought messages, or it lasted. If so, forgets earlier faults. */
  #good(began: number): boolean {
    const good = this.#fresh > 0 || (this.#state === "open" && performance.now() - began >= shortest);
    if (good) {
      this.#worked = true;
      this.#backoff.reset();
    }
    return good;
  }

  /** Plans the next read after a fault, and emits the fault. */
  #handle(fault: MegaphoneError): void {
    const missing = [404, 410].includes(fault.status!);
    // Before anything has worked, such a reply that is not from Megaphone means that the base URL is wrong.
    const gone = missing && (this.#worked || fault.code !== "HTTP");
    if (gone && this.#worked) {
      this.#backoff.reset(); // the server answers, so earlier faults must not delay the next channel
    }
    this.#asked = performance.now() + Math.min(fault.retryAfter ?? 0, longest);
    this.#due = Math.max(performance.now() + this.#backoff.next(), this.#asked);
    this.#fault = fault.code === "APPLICATION" ? (fault.cause as Error) : fault;
    const creates = typeof this.#source === "function";
    if (gone || (missing && creates)) {
      this.#forget();
    }
    if (!gone) {
      this.#set("waiting");
      this.emit("error", this.#fault);
      return;
    }
    if (!creates && !(this.#source as { url?: unknown }).url) {
      this.#source = undefined;
    }
    this.#set("gone");
    this.emit("gone", fault);
  }

  /** Forgets the channel and the cursor. */
  #forget(): void {
    this.#located = undefined;
    this.#cursor = "";
    this.#worked = false;
  }

  /** Asks the application where and how to read. */
  async #ask() {
    const options = this.#options;
    // A running call is shared, because each call would create another channel.
    const located = (this.#located ??= resolve(this.#source!, this.#base, options));
    const url = await located.catch((error) => {
      if (this.#located === located) {
        this.#located = undefined;
      }
      throw error;
    });
    const asked = (["headers", "query", "protocols"] as const).map((name) =>
      ask<any>(name, options[name], options, this.#fault),
    );
    return [url, ...(await Promise.all(asked))] as const;
  }

  /** Reads once, with the best transport that works. */
  async #read(signal: AbortSignal): Promise<void> {
    const options = this.#options;
    const asked = await Promise.race([this.#ask(), aborted(signal)]);
    if (signal.aborted) {
      return;
    }
    const [url, headers, query, protocols] = asked;
    const separator = url.includes("?") ? "&" : "?";
    const failed: TransportName[] = [];
    const candidates = this.#candidates();
    let held = false; // something on the way holds back streams, though it may pass on the headers
    for (const name of candidates) {
      if (held && name === "ndjson" && name !== candidates.at(-1)) {
        failed.push(name);
        continue;
      }
      this.debug("read", name);
      let opened = false;
      const target: Target = {
        ...options,
        url: url + separator + new URLSearchParams({ ...query, after: this.#cursor }),
        cursor: this.#cursor,
        fetch: options.fetch ?? globalThis.fetch,
        WebSocket: this.#WebSocket,
        headers,
        protocols,
        timeout: options.timeout ?? 10_000,
        silence: options.silence ?? (name === "websocket" ? 120_000 : 45_000),
      };
      const sink: Sink = {
        opened: (gap) => {
          opened = true;
          this.#fault = undefined;
          failed.forEach((name) => this.#avoided.set(name, performance.now() + longest));
          this.#transport = name;
          this.#set("open");
          if (gap) {
            this.emit("gap", undefined);
          }
        },
        take: (text) => this.#take(text, signal),
        room: () => this.#room(),
      };
      try {
        return await transports[name](target, sink, signal);
      } catch (error) {
        const fault = asFault(error);
        if (opened || signal.aborted || !elsewhere(fault)) {
          throw fault;
        }
        this.#set("connecting"); // the last connection has ended
        held ||= name === "sse" && fault.code === "NO_START";
        failed.push(name);
        if (failed.length === candidates.length) {
          if (name === "websocket") {
            await probe(target, signal);
          }
          throw error;
        }
      }
    }
  }

  /** Returns the transports to try, in order. */
  #candidates(): readonly TransportName[] {
    const all =
      this.#options.transports ?? (Object.keys(transports) as TransportName[]).slice(this.#options.headers ? 1 : 0);
    const usable = all.filter(
      (name) => (name !== "websocket" || this.#WebSocket) && !(this.#avoided.get(name)! > performance.now()),
    );
    return usable.length ? usable : all;
  }

  /** Takes the JSON text of a message and returns its event id. */
  #take(text: string, signal: AbortSignal): string {
    let message!: Message;
    try {
      message = JSON.parse(text);
    } catch {
      // Reported below.
    }
    if (typeof message?.eid !== "string" || typeof message.sid !== "string") {
      throw new MegaphoneError("UNREADABLE", `not a message: ${String(text).slice(0, 80)}`);
    }
    if (this.#options.decode ?? this.#options.schemas) {
      this.#decoding = Promise.resolve(this.#decoding) // one after the other, to keep the order
        .then(() => decode(message, this.#options))
        .then(
          (body) => this.#pass({ ...message, body }, text, signal),
          (fault) => this.#pass(message, text, signal, fault),
        );
    } else {
      this.#pass(message, text, signal);
    }
    return message.eid;
  }

  /** Passes a message on, or the fault that keeps it from its listeners. */
  #pass(message: Message & Partial<End>, text: string, signal: AbortSignal, fault?: MegaphoneError): void {
    if (signal.aborted) {
      return;
    }
    this.#cursor = message.eid;
    if (!this.#seen.add(message.eid)) {
      return;
    }
    this.#fresh++;
    this.debug("message", message.sid);
    if (message.missed) {
      this.emit("missed", message as Events["missed"]);
    }
    if (fault) {
      this.emit("error", fault);
      return;
    }
    this.#streams.dispatch(message, text.length);
    if (message.end) {
      this.emit("end", message as End);
    }
  }

  /** Returns a promise to wait for before the client reads on, or undefined. */
  #room(): Promise<void> | undefined {
    return this.#decoding?.then(() => this.#streams.room()) ?? this.#streams.room();
  }

  #set(state: State): void {
    if (this.#state !== state && !this.#over) {
      this.#state = state;
      this.emit("state", state);
    }
  }
}

/** Reports whether another transport may work after this fault at the start of a read. */
function elsewhere(fault: MegaphoneError): boolean {
  return fault.code === "NO_START" || [400, 405, 406, 426, 501].includes(fault.status!);
}
