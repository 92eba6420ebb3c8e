// One connection for all tabs of a user: a SharedWorker reads the channel and passes everything on to the tabs.

import { Emitter } from "./emitter.js";
import type { Megaphone } from "./megaphone.js";
import type { Events, State } from "./options.js";
import { Streams, type AnyMessage, type End, type Listener, type Message } from "./streams.js";

/** What a tab has in place of a client: the same, but for what concerns only the one who reads the channel. */
export type Tab<Bodies extends object = Record<string, any>> = Pick<
  Megaphone<Bodies>,
  "subscribe" | "messages" | "on" | "once" | "off" | "state" | "close"
>;

/** What passes between the worker and a tab: the name of an event, `message`, or `lock`, and its value. */
type Note = [what: keyof Events | "message" | "lock", value: any];

const events = ["state", "gone", "gap", "missed", "end", "error"] as const;

/** How long a tab waits for the worker before it reads the channel by itself, in milliseconds. */
const patience = 5000;

/** A tab does not start a worker again that dies this soon after the tab has started it again, in milliseconds. */
const shortest = 10_000;

/** How long the worker keeps its client when the last tab has left: the user may be on the way to the next page. */
const linger = 10_000;

/**
 * Serves the tabs. Call it in the worker's script. `create` makes the client when the first tab comes; it is closed some
 * seconds after the last one has left. Messages that come in between wait for the next tab.
 */
export function share(create: () => Tab<any>): void {
  const ports = new Set<MessagePort>();
  const take = (note: Note) => ports.forEach((port) => port.postMessage(note));
  const alive = hold();
  let client: Tab<any> | undefined;
  let unsubscribe: (() => void) | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const leave = (port: MessagePort) => {
    ports.delete(port);
    if (ports.size > 0) {
      return;
    }
    unsubscribe?.();
    unsubscribe = undefined;
    clearTimeout(timer);
    timer = setTimeout(() => {
      client?.close();
      client = undefined;
    }, linger);
  };
  const join = (port: MessagePort) => {
    clearTimeout(timer);
    ports.add(port);
    client ??= follow(create(), take);
    port.postMessage(["state", client.state] satisfies Note);
    void alive.then((name) => port.postMessage(["lock", name] satisfies Note));
    unsubscribe ??= client.subscribe((message: Message) => take(["message", message]));
  };
  (globalThis as any).onconnect = ({ ports: [port] }: MessageEvent) => {
    port!.onmessage = ({ data }) => (data === "join" ? join(port!) : leave(port!));
    port!.addEventListener("close", () => leave(port!)); // not in every browser, if a tab crashes
  };
}

/**
 * Holds a lock for as long as this worker lives, and returns its name: a browser tells nobody that a worker has crashed, but it
 * then gives the lock to a tab. Waits forever where there are no locks: on pages without HTTPS.
 */
function hold(): Promise<string> {
  return new Promise((held) => {
    const name = `megaphone ${Math.random()}`;
    void globalThis.navigator?.locks?.request(name, () => {
      held(name);
      return new Promise(() => {});
    });
  });
}

/** Passes the events of a client on. */
function follow(client: Tab<any>, take: (note: Note) => void): Tab<any> {
  for (const event of events) {
    client.on(event, (value: any) => {
      // Errors lose most fields on their way to another thread.
      take([
        event,
        value instanceof Error ? { ...value, name: value.name, message: value.message, cause: null } : value,
      ]);
    });
  }
  return client;
}

/**
 * Returns what a tab reads from. If the browser has no SharedWorker, or the worker does not start, the tab reads the
 * channel by itself, with the client that `create` makes. A worker that has crashed is started again, and the tab gets `gap`.
 */
export function connect<Bodies extends object = Record<string, any>>(
  worker: () => SharedWorker,
  create: () => Tab<Bodies>,
): Tab<Bodies> {
  return new WorkerTab(worker, create);
}

class WorkerTab<Bodies extends object> extends Emitter<Events> implements Tab<Bodies> {
  #state: State = "connecting";
  #streams = new Streams(Infinity);
  #port: MessagePort | undefined;
  #own: Tab<Bodies> | undefined; // a client of this tab, without the worker
  #worker: () => SharedWorker;
  #create: () => Tab<Bodies>;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #restarted = -Infinity; // when, on the clock of performance.now
  #watch = new AbortController(); // aborts when the tab does not watch the worker any more
  #life = new AbortController();

  constructor(worker: () => SharedWorker, create: () => Tab<Bodies>) {
    super(undefined);
    this.#worker = worker;
    this.#create = create;
    // A page that is frozen, or kept for the back button, gets nothing meanwhile: its messages would fill the memory.
    const { signal } = this.#life;
    const leave = () => {
      this.#watch.abort(); // a page that waits for a lock is not kept
      this.#port?.postMessage("leave");
    };
    const back = (event: Event) => {
      if (event.type === "resume" || (event as PageTransitionEvent).persisted) {
        this.#join();
        this.emit("gap", undefined);
      }
    };
    globalThis.addEventListener?.("pagehide", leave, { signal });
    globalThis.addEventListener?.("pageshow", back, { signal });
    globalThis.document?.addEventListener("freeze", leave, { signal });
    globalThis.document?.addEventListener("resume", back, { signal });
    this.#start();
  }

  /** Starts the worker, or finds the one that runs. */
  #start(): void {
    try {
      const shared = this.#worker();
      shared.onerror = () => this.#alone();
      this.#port = shared.port;
      this.#port.onmessage = ({ data }) => {
        clearTimeout(this.#timer);
        this.#take(data);
      };
      this.#join();
    } catch {
      queueMicrotask(() => this.#alone());
    }
  }

  /** Waits for the lock of the worker: the tab gets it when the worker is dead. */
  async #watchWorker(name: string): Promise<void> {
    this.#watch.abort();
    const watch = (this.#watch = new AbortController());
    try {
      await navigator.locks.request(name, { signal: watch.signal }, () => {});
    } catch {
      return; // the tab does not watch this worker any more
    }
    if (!watch.signal.aborted) {
      this.#take(["state", "connecting"]);
      this.emit("gap", undefined); // what the worker had, and had not passed on, is lost
      this.#port?.close();
      if (performance.now() - this.#restarted < shortest) {
        this.#alone();
      } else {
        this.#restarted = performance.now();
        this.#start();
      }
    }
  }

  get state(): State {
    return this.#state;
  }

  subscribe(stream: string | ((message: any) => void), listener?: Listener, end?: (end: any) => void): () => void {
    return typeof stream === "string"
      ? this.#streams.subscribe(stream, listener!, end)
      : this.#streams.subscribe(undefined, stream);
  }

  messages(streamId?: string, options?: { signal?: AbortSignal }): AsyncIterableIterator<any> {
    return this.#streams.iterate(streamId, options?.signal);
  }

  close(): void {
    this.#leave();
    this.#own?.close();
    this.#take(["state", "closed"]);
    this.#streams.close();
  }

  #join(): void {
    this.#port?.postMessage("join");
    clearTimeout(this.#timer); // a page may come back before the worker has answered
    this.#timer = setTimeout(() => this.#alone(), patience);
  }

  #leave(): void {
    clearTimeout(this.#timer);
    this.#life.abort();
    this.#watch.abort();
    this.#port?.postMessage("leave");
    this.#port?.close();
    this.#port = undefined;
  }

  /** Reads the channel without the worker. */
  #alone(): void {
    this.#leave();
    if (this.#state !== "closed" && !this.#own) {
      this.#own = follow(this.#create(), (note) => this.#take(note));
      this.#own.subscribe((message: any) => this.#take(["message", message]));
    }
  }

  #take([what, value]: Note): void {
    if (this.#state === "closed") {
      return;
    }
    if (what === "lock") {
      void this.#watchWorker(value);
      return;
    }
    if (what === "message") {
      this.#streams.dispatch(value as Message, 0);
      return;
    }
    if (what === "state") {
      if (value === this.#state) {
        return;
      }
      this.#state = value;
    }
    if (what === "end") {
      this.#streams.dispatch(value as Message & End, 0);
    }
    this.emit(what, what === "error" || what === "gone" ? Object.assign(new Error(), value) : value);
  }
}

export type { AnyMessage, End, Events, Listener, Message, State };
