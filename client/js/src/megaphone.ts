// The client. It reads one channel until it is closed, whatever happens to connections.

import { Backoff } from "./backoff.js";
import { aborted, resolve, type ChannelSource } from "./channel.js";
import { MegaphoneError, asFault } from "./errors.js";
import { ndjson, poll, probe, sse } from "./http.js";
import type { Events, Options, State } from "./options.js";
import { watchPage } from "./page.js";
import { Seen } from "./seen.js";
import { Streams, type Listener, type Message } from "./streams.js";
import { Pause } from "./timer.js";
import type { Sink, Target, Transport, TransportName } from "./transport.js";
import { websocket } from "./websocket.js";

const transports: Record<TransportName, Transport> = { websocket, sse, ndjson, poll };

/** If a transport failed and another one worked, the client avoids the first for this long, in milliseconds. */
const avoidTime = 300_000;

/** The longest time that a server can make the client wait, in milliseconds. */
const longest = 300_000;

/** If a read lasts at least this long, in milliseconds, the next one follows at once. */
const shortest = 1000;

export class Megaphone {
  #base: string;
  #source: ChannelSource | undefined;
  #options: Options;
  #fetch: typeof fetch;
  #WebSocket: typeof WebSocket | undefined;

  #state: State = "idle";
  #transport: TransportName | undefined;
  #address: string | undefined;
  #located: Promise<string> | undefined; // the same address, which may not be known yet
  #cursor: string;
  #seen = new Seen();
  #streams: Streams;
  #listeners: { [E in keyof Events]?: ((value: Events[E]) => void)[] } = {};

  #backoff: Backoff;
  #due = 0; // the earliest time for the next read, on the clock of performance.now
  #asked = 0; // the earliest time that the server asks for
  #pause = new Pause();
  #connection: AbortController | undefined;
  #worked = false; // whether any connection to the current channel was good
  #fresh = 0; // how many new messages the current connection has brought
  #avoided = new Map<TransportName, number>(); // the time until which to avoid each transport
  #unwatch = () => {};
  #close = () => this.close();

  /**
   * Reading begins with the first call of `subscribe` or `messages`.
   *
   * @param url the URL before `/read/…`: `https://app.example.com`, or `/` on a page of the same site
   * @param channel the channel, or a function that creates it. When the channel is gone, the client calls it again
   */
  constructor(url: string | URL, channel: ChannelSource, options: Options = {}) {
    this.#base = new URL(url, globalThis.location?.href).href.replace(/[?#].*/, "").replace(/\/+$/, "");
    this.#source = channel;
    this.#options = options;
    this.#cursor = options.after ?? "";
    this.#fetch = options.fetch ?? globalThis.fetch;
    this.#WebSocket = (options.WebSocket ?? globalThis.WebSocket) as typeof WebSocket | undefined;
    this.#backoff = new Backoff(...(options.backoff ?? [500, 30_000]));
    this.#streams = new Streams(options.buffer ?? 4 << 20, report);
    options.signal?.addEventListener("abort", this.#close);
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

  /** Calls a listener for each event of a kind. Returns a function that removes the listener. */
  on<E extends keyof Events>(event: E, listener: (value: Events[E]) => void): () => void {
    const list: ((value: Events[E]) => void)[] = (this.#listeners[event] ??= []);
    list.push(listener);
    return () => {
      const i = list.indexOf(listener);
      if (i >= 0) {
        list.splice(i, 1);
      }
    };
  }

  /**
   * Calls a listener for each message of a stream, or of all streams. Returns a function that removes the listener. If
   * a stream has no listener, its messages wait for one. Only the newest 100 such messages are kept.
   */
  subscribe<Body = any>(listener: Listener<Body>): () => void;
  subscribe<Body = any>(streamId: string, listener: Listener<Body>): () => void;
  subscribe(stream: string | Listener, listener?: Listener): () => void {
    this.#start();
    return typeof stream === "string"
      ? this.#streams.subscribe(stream, listener!)
      : this.#streams.subscribe(undefined, stream);
  }

  /**
   * Returns an iterator over the messages of a stream, or of all streams. It ends when the client closes, when its
   * signal aborts, or when you leave the loop over it. While iterators hold as many bytes as `buffer` allows, the
   * client reads nothing more.
   */
  messages<Body = any>(streamId?: string, options?: { signal?: AbortSignal }): AsyncIterableIterator<Message<Body>> {
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
    this.#unwatch();
    this.#options.signal?.removeEventListener("abort", this.#close);
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
    this.#unwatch = watchPage((renew) => {
      if (this.#state !== "open") {
        this.#backoff.reset();
        this.#due = this.#asked;
        this.#pause.end();
      }
      if (renew) {
        this.#connection?.abort(); // may also be an attempt to connect
      }
    });
    queueMicrotask(() => void this.#run());
  }

  /** Reads until the client is closed. */
  async #run(): Promise<void> {
    while (!this.#over) {
      await this.#streams.room();
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
      try {
        await this.#read(connection.signal);
        if (!connection.signal.aborted && !this.#good(began)) {
          this.#delay(Math.min(this.#backoff.next(), shortest)); // prevents a busy loop if reads end at once
        }
      } catch (error) {
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

  /** Delays the next read by at least this many milliseconds. */
  #delay(wait: number): void {
    this.#due = performance.now() + wait;
  }

  /** Plans the next read after a fault, and emits the fault. */
  #handle(fault: MegaphoneError): void {
    const gone = this.#address !== undefined && (fault.status === 404 || fault.status === 410);
    if (gone && this.#worked) {
      this.#backoff.reset(); // the server answers, so earlier faults must not delay the next channel
    }
    this.#delay(this.#backoff.next());
    this.#asked = performance.now() + Math.min(fault.retryAfter ?? 0, longest);
    this.#due = Math.max(this.#due, this.#asked);
    if (!gone) {
      this.#set("waiting");
      this.#emit("error", fault);
      return;
    }
    this.#forget();
    if (typeof this.#source !== "function") {
      this.#source = undefined;
    }
    this.#set("gone");
    this.#emit("gone", fault);
  }

  /** Forgets the channel and the cursor. */
  #forget(): void {
    this.#address = this.#located = undefined;
    this.#cursor = "";
    this.#worked = false;
  }

  /** Returns the address of the channel, or undefined if the signal aborts before it is known. */
  async #locate(signal: AbortSignal): Promise<string | undefined> {
    // A running call is shared, because each call would create another channel.
    const located = (this.#located ??= resolve(this.#source!));
    try {
      return await Promise.race([located, aborted(signal)]);
    } catch (error) {
      if (this.#located === located) {
        this.#located = undefined;
      }
      throw error;
    }
  }

  /** Reads once, with the best transport that works. */
  async #read(signal: AbortSignal): Promise<void> {
    const address = this.#address ?? (await this.#locate(signal));
    if (address === undefined || signal.aborted) {
      return;
    }
    this.#address = address;
    const failed: TransportName[] = [];
    const candidates = this.#candidates();
    let held = false; // something on the way holds back streams, though it may pass on the headers
    for (const name of candidates) {
      if (held && name === "ndjson" && name !== candidates.at(-1)) {
        failed.push(name);
        continue;
      }
      let opened = false;
      const target: Target = {
        url: `${this.#base}/read/${encodeURIComponent(address)}?after=${encodeURIComponent(this.#cursor)}`,
        cursor: this.#cursor,
        fetch: this.#fetch,
        WebSocket: this.#WebSocket,
        timeout: this.#options.timeout ?? 10_000,
        silence: this.#options.silence ?? (name === "websocket" ? 120_000 : 45_000),
      };
      const sink: Sink = {
        opened: (gap) => {
          opened = true;
          failed.forEach((name) => this.#avoided.set(name, performance.now() + avoidTime));
          this.#opened(name, gap);
        },
        take: (text) => this.#take(text, signal),
        room: () => this.#streams.room(),
      };
      try {
        return await transports[name](target, sink, signal);
      } catch (error) {
        const fault = asFault(error);
        if (opened || signal.aborted || !elsewhere(fault)) {
          throw fault;
        }
        if (this.#state === "open") {
          this.#set("waiting"); // the last connection has ended
        }
        held ||= name === "sse" && fault.code === "NO_START";
        failed.push(name);
        if (failed.length === candidates.length) {
          throw (name === "websocket" && (await probe(target, signal))) || error;
        }
      }
    }
  }

  /** Returns the transports to try, in order. */
  #candidates(): readonly TransportName[] {
    const all = this.#options.transports ?? (Object.keys(transports) as TransportName[]);
    const usable = all.filter(
      (name) => (name !== "websocket" || this.#WebSocket) && !((this.#avoided.get(name) ?? 0) > performance.now()),
    );
    return usable.length > 0 ? usable : all;
  }

  #opened(name: TransportName, gap: boolean): void {
    this.#transport = name;
    this.#set("open");
    if (gap) {
      this.#emit("gap", undefined);
    }
  }

  /** Takes the JSON text of a message and returns its event id. */
  #take(text: string, signal: AbortSignal): string {
    let message: Message | undefined;
    try {
      message = JSON.parse(text);
    } catch {
      // Reported below.
    }
    if (typeof message?.eid !== "string" || typeof message.sid !== "string") {
      throw new MegaphoneError("UNREADABLE", `not a message: ${String(text).slice(0, 80)}`);
    }
    if (!signal.aborted) {
      this.#cursor = message.eid;
      if (this.#seen.add(message.eid)) {
        this.#fresh++;
        this.#streams.dispatch(message, text.length);
      }
    }
    return message.eid;
  }

  #set(state: State): void {
    if (this.#state !== state && !this.#over) {
      this.#state = state;
      this.#emit("state", state);
    }
  }

  #emit<E extends keyof Events>(event: E, value: Events[E]): void {
    for (const listener of [...(this.#listeners[event] ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        report(error);
      }
    }
  }
}

/** Reports whether another transport may work after this fault at the start of a read. */
function elsewhere(fault: MegaphoneError): boolean {
  return fault.code === "NO_START" || [400, 405, 406, 426, 501].includes(fault.status ?? 0);
}

/** Reports an error that a listener has thrown, in the way the platform reports uncaught errors. */
function report(error: unknown): void {
  (globalThis.reportError ?? console.error)(error);
}
