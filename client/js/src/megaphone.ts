// The client: one channel, read for as long as it is wanted, whatever happens to connections.

import { Backoff } from "./backoff.js";
import { aborted, resolve, type ChannelSource } from "./channel.js";
import { MegaphoneError, asFault } from "./errors.js";
import { ndjson, poll, probe, sse } from "./http.js";
import { watchPage } from "./page.js";
import { Seen } from "./seen.js";
import { Streams, type Listener, type Message } from "./streams.js";
import { Pause } from "./timer.js";
import type { Sink, Target, Transport, TransportName } from "./transport.js";
import { websocket } from "./websocket.js";

/**
 * How the connection does. `idle`: nobody has subscribed yet; `connecting`: for the first time, or to another
 * channel; `open`: messages come as they are written; `waiting`: after a fault, until the next attempt; `gone`: the
 * channel is no more, see `use`; `closed`: by `close`.
 */
export type State = "idle" | "connecting" | "open" | "waiting" | "gone" | "closed";

/** What `on` tells, and with what. */
export interface Events {
  /** The state has changed. */
  state: State;
  /** The channel has expired, was deleted, or the server has restarted: create another one. */
  gone: MegaphoneError;
  /** Messages may have been lost since the last one: fetch afresh what depends on them. */
  gap: undefined;
  /** A fault. The client goes on by itself. */
  error: MegaphoneError;
}

export interface Options {
  /** Transports to use, the best first. Default: `["websocket", "sse", "ndjson", "poll"]`. */
  transports?: readonly TransportName[];
  /** The event id to continue after, as `cursor` had it earlier. */
  after?: string;
  /** Ends everything, as `close` does. */
  signal?: AbortSignal;
  /** A fetch of your own, which adds a header for example. */
  fetch?: typeof fetch;
  /** A constructor of WebSockets, for Node before 22. */
  WebSocket?: unknown;
  /** The first and the longest wait after faults, in milliseconds. Default: `[500, 30000]`. */
  backoff?: readonly [number, number];
  /** How long the start of a read may take, in milliseconds. Default: 10000. */
  timeout?: number;
  /** How long a connection may be silent before it is made anew, in milliseconds. Default: 45000; WebSocket: 120000. */
  silence?: number;
  /** About how many bytes of messages wait in iterators before reading pauses. Default: 4 MiB. */
  buffer?: number;
}

const transports: Record<TransportName, Transport> = { websocket, sse, ndjson, poll };

/** How long a transport is not tried again that failed where another one worked, in milliseconds. */
const avoidTime = 300_000;

/** The longest wait that a server may ask for, in milliseconds. */
const longest = 300_000;

/** A read that lasted so long, in milliseconds, is followed by the next at once. */
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
  #located: Promise<string> | undefined; // the same, perhaps not known yet
  #cursor: string;
  #seen = new Seen();
  #streams: Streams;
  #listeners: { [E in keyof Events]?: ((value: Events[E]) => void)[] } = {};

  #backoff: Backoff;
  #due = 0; // when the next read may begin, on the clock of performance.now
  #asked = 0; // when the server wants it to begin, at the earliest
  #pause = new Pause();
  #connection: AbortController | undefined;
  #worked = false; // whether a connection to the present channel was worth something
  #fresh = 0; // how many new messages the present connection has brought
  #avoided = new Map<TransportName, number>(); // until when
  #unwatch = () => {};
  #close = () => this.close();

  /**
   * Reading begins with the first `subscribe` or `messages`.
   *
   * @param url where `/read/…` is found, without that: `https://app.example.com`, or `/` on a page of the same site
   * @param channel the channel, or a function that creates it, and the next one when it is gone
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

  /** How the connection does. */
  get state(): State {
    return this.#state;
  }

  /** The transport of the present connection, or of the last. */
  get transport(): TransportName | undefined {
    return this.#transport;
  }

  /** The event id of the newest message: keep it to continue after it in another page or process. */
  get cursor(): string {
    return this.#cursor;
  }

  /** Calls a listener for each event of a kind. Returns a function that ends this. */
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
   * Calls a listener for each message of a stream, or of all. Returns a function that ends this. The newest 100
   * messages of streams that nobody listens to wait for a listener.
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
   * Returns the messages of a stream, or of all, one after the other. It ends with the client, by its signal, or
   * when the loop over it is left. While it holds as much as `buffer` says, nothing more is read.
   */
  messages<Body = any>(streamId?: string, options?: { signal?: AbortSignal }): AsyncIterableIterator<Message<Body>> {
    this.#start();
    return this.#streams.iterate(streamId, options?.signal);
  }

  /** Goes on with another channel, after `gone` for example. Who listens to which stream stays. */
  use(channel: ChannelSource): void {
    this.#source = channel;
    this.#forget();
    if (this.#state !== "idle") {
      this.#set("connecting");
    }
    this.#connection?.abort();
    this.#pause.end();
  }

  /** Ends everything, for good. Iterators end after what they hold. */
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
        this.#connection?.abort(); // or an attempt that was begun before
      }
    });
    queueMicrotask(() => void this.#run());
  }

  /** Reads, until the client is closed. */
  async #run(): Promise<void> {
    while (!this.#over) {
      await this.#streams.room();
      if (this.#over) {
        return;
      }
      const wait = this.#source ? this.#due - performance.now() : Infinity; // without a channel: until use
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
          this.#delay(Math.min(this.#backoff.next(), shortest)); // no loop over reads that end at once
        }
      } catch (error) {
        if (!connection.signal.aborted) {
          this.#good(began);
          this.#handle(asFault(error));
        }
      }
    }
  }

  /** Reports whether the last connection was worth something, and forgets earlier faults then. */
  #good(began: number): boolean {
    const good = this.#fresh > 0 || (this.#state === "open" && performance.now() - began >= shortest);
    if (good) {
      this.#worked = true;
      this.#backoff.reset();
    }
    return good;
  }

  /** Has the next read begin in so many milliseconds at the earliest. */
  #delay(wait: number): void {
    this.#due = performance.now() + wait;
  }

  /** Tells about a fault. */
  #handle(fault: MegaphoneError): void {
    const gone = this.#address !== undefined && (fault.status === 404 || fault.status === 410);
    if (gone && this.#worked) {
      this.#backoff.reset(); // the server is there, whatever was before: nobody waits long for the next channel
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

  /** Forgets the channel, and where in it the client is. */
  #forget(): void {
    this.#address = this.#located = undefined;
    this.#cursor = "";
    this.#worked = false;
  }

  /** Returns the address of the channel, or undefined if the signal aborts the wait for it. */
  async #locate(signal: AbortSignal): Promise<string | undefined> {
    // What is under way is not begun again: each would be a channel of its own.
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

  /** Reads once, by the best transport that works. */
  async #read(signal: AbortSignal): Promise<void> {
    const address = this.#address ?? (await this.#locate(signal));
    if (address === undefined || signal.aborted) {
      return;
    }
    this.#address = address;
    const failed: TransportName[] = [];
    const candidates = this.#candidates();
    let held = false; // something on the way holds back what is streamed, perhaps not the headers
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
          this.#set("waiting"); // the last connection is no more
        }
        held ||= name === "sse" && fault.code === "NO_START";
        failed.push(name);
        if (failed.length === candidates.length) {
          throw (name === "websocket" && (await probe(target, signal))) || error;
        }
      }
    }
  }

  /** The transports to try, in their order. */
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

  /** Takes a message, and returns its event id. */
  #take(text: string, signal: AbortSignal): string {
    let message: Message | undefined;
    try {
      message = JSON.parse(text);
    } catch {
      // Reported below.
    }
    if (typeof message?.eid !== "string" || typeof message.sid !== "string") {
      throw new MegaphoneError("UNREADABLE", `what came is no message: ${String(text).slice(0, 80)}`);
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

/** Reports whether another transport may work where one has failed to start. */
function elsewhere(fault: MegaphoneError): boolean {
  return fault.code === "NO_START" || [400, 405, 406, 426, 501].includes(fault.status ?? 0);
}

/** Reports what a listener has thrown, as the platform reports it elsewhere. */
function report(error: unknown): void {
  (globalThis.reportError ?? console.error)(error);
}
