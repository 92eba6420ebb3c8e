// Messages on their way to the page: the listeners of each stream, and the messages that wait for a listener.

import { call } from "./emitter.js";
import { MegaphoneError } from "./errors.js";

/** A message as the server sends it. */
export interface Message<Body = any, StreamId extends string = string> {
  /** The id of its stream. */
  sid: StreamId;
  /** The event id, unique for each message. */
  eid: string;
  /** When the server accepted it, in RFC 3339 format, in UTC. */
  ts: string;
  body: Body;
  /** How many messages of topics the channel has missed since its last message, because it was full. */
  missed?: number;
}

/** The end of a stream. `done`: it is complete; `aborted`: its producer died. */
export interface End<StreamId extends string = string> {
  sid: StreamId;
  eid: string;
  ts: string;
  end: "done" | "aborted";
}

export type Listener<Body = any, StreamId extends string = string> = (message: Message<Body, StreamId>) => void;

/** A message of any stream. `Bodies` has the type of each stream's body. */
export type AnyMessage<Bodies extends object> = {
  [S in keyof Bodies & string]: Message<Bodies[S], S>;
}[keyof Bodies & string];

/** How many messages are kept for streams without a listener. */
const maxUnclaimed = 100;

/** What goes through here: a message, or the end of its stream, and about how much memory it needs, in bytes. */
interface Item {
  message: Message & Partial<End>;
  bytes: number;
}

interface Subscriber {
  /** The stream, or undefined for all streams. */
  sid: string | undefined;
  listener: (item: Item) => void;
  /** The messages that the listener must get first. It is undefined once the listener has them. */
  backlog: Item[] | undefined;
}

/** All messages on their way to the page. */
export class Streams {
  #subscribers: Subscriber[] = [];
  #unclaimed: Item[] = [];
  #iterators = new Set<Iteration>();
  #buffered = 0;
  #limit: number;
  #room: { promise: Promise<void>; resolve: () => void } | undefined;
  #closed = false;

  /** @param limit about how many bytes wait in iterators before reading pauses */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * Adds a listener for a stream, or for all streams, and one for the ends of streams. Returns a function that removes
   * them.
   */
  subscribe(sid: string | undefined, listener: Listener, end?: (end: End) => void): () => void {
    return this.#add(sid, ({ message }) => (message.end ? end?.(message as End) : listener(message)));
  }

  #add(sid: string | undefined, listener: (item: Item) => void): () => void {
    const subscriber: Subscriber = { sid, listener, backlog: this.#claim(sid) };
    this.#subscribers.push(subscriber);
    // The listener runs only after subscribe has returned.
    queueMicrotask(() => {
      for (let item; (item = subscriber.backlog!.shift());) {
        call(subscriber.listener, item);
      }
      subscriber.backlog = undefined;
    });
    return () => {
      this.#subscribers = this.#subscribers.filter((other) => other !== subscriber);
      subscriber.listener = () => {};
      this.#leave(subscriber.backlog?.splice(0) ?? []);
    };
  }

  /** Returns those who get the messages of a stream, in a list that never changes. */
  #of(sid: string): Subscriber[] {
    return this.#subscribers.filter((subscriber) => (subscriber.sid ?? sid) === sid);
  }

  /** Returns an iterator over the messages of a stream, or of all streams. */
  iterate(sid: string | undefined, signal?: AbortSignal): AsyncIterableIterator<Message> {
    const iteration = new Iteration((bytes) => this.#release(bytes));
    if (this.#closed || signal?.aborted) {
      iteration.end();
      return iteration;
    }
    const unsubscribe = this.#add(sid, (item) => {
      const { end } = item.message;
      if (end) {
        return sid !== undefined && iteration.finish(end);
      }
      this.#buffered += item.bytes;
      iteration.push(item);
    });
    const end = () => iteration.end();
    iteration.onend = (left) => {
      unsubscribe();
      signal?.removeEventListener("abort", end);
      this.#iterators.delete(iteration);
      this.#leave(left);
    };
    this.#iterators.add(iteration);
    signal?.addEventListener("abort", end);
    return iteration;
  }

  /** Passes a message on. Its text has length characters. */
  dispatch(message: Item["message"], length: number): void {
    const item = { message, bytes: length + 256 }; // about how much a message needs besides its text
    const subscribers = this.#of(message.sid);
    if (subscribers.length === 0) {
      this.#unclaimed.push(item);
      this.#unclaimed.splice(0, this.#unclaimed.length - maxUnclaimed);
    }
    for (const subscriber of subscribers) {
      if (subscriber.backlog) {
        subscriber.backlog.push(item);
      } else {
        call(subscriber.listener, item);
      }
    }
  }

  /** Returns a promise to wait for while too much is buffered, or undefined if there is room. */
  room(): Promise<void> | undefined {
    if (this.#buffered >= this.#limit && !this.#room) {
      let resolve!: () => void;
      this.#room = { promise: new Promise((r) => (resolve = r)), resolve };
    }
    return this.#room?.promise;
  }

  /** Ends all iterators. They still return the messages that they hold. */
  close(): void {
    this.#closed = true;
    this.#iterators.forEach((iteration) => iteration.finish());
    this.#room?.resolve();
  }

  /** Removes and returns the waiting messages of a stream, or of all streams. */
  #claim(sid: string | undefined): Item[] {
    const claimed = this.#unclaimed.filter(({ message }) => sid === undefined || message.sid === sid);
    this.#unclaimed = this.#unclaimed.filter((item) => !claimed.includes(item));
    return claimed;
  }

  /**
   * Takes back the messages that a leaving listener has not handled. They wait for the next listener, unless another
   * listener has got them.
   */
  #leave(items: Item[]): void {
    this.#unclaimed.unshift(...items.filter(({ message }) => !this.#of(message.sid).length)); // keeps all of them, in case the next listener comes soon
  }

  #release(bytes: number): void {
    this.#buffered -= bytes;
    if (this.#room && this.#buffered < this.#limit) {
      this.#room.resolve();
      this.#room = undefined;
    }
  }
}

/** Messages that wait until the page asks for them. */
class Iteration implements AsyncIterableIterator<Message> {
  /** Is called at the end with the messages that the page has not asked for, unless the iterator still returns them. */
  onend = (_left: Item[]) => {};
  #queue: Item[] = [];
  #waiting: ((result: Promise<IteratorResult<Message>> | IteratorResult<Message>) => void)[] = [];
  #finished: End["end"] | undefined;
  #release: (bytes: number) => void;

  constructor(release: (bytes: number) => void) {
    this.#release = release;
  }

  push(item: Item): void {
    this.#queue.push(item);
    const waiting = this.#waiting.shift();
    if (waiting) {
      waiting(this.next());
    }
  }

  /** Ends the iterator. It still returns the messages in its queue. If the stream was aborted, it then throws once. */
  finish(end: End["end"] = "done"): void {
    this.#finished = end;
    this.#waiting.splice(0).forEach((waiting) => waiting(this.#end()));
    this.onend([]);
  }

  /** Returns the end, or a rejection if the stream was aborted. */
  #end(): Promise<IteratorResult<Message>> | IteratorResult<Message> {
    if (this.#finished === "aborted") {
      this.#finished = "done";
      return Promise.reject(new MegaphoneError("ABORTED", "the producer of the stream died"));
    }
    return { done: true, value: undefined };
  }

  /** Ends the iterator at once. */
  end(): void {
    this.finish();
    const left = this.#queue.splice(0);
    this.onend(left);
    left.forEach(({ bytes }) => this.#release(bytes));
  }

  async next(): Promise<IteratorResult<Message>> {
    const first = this.#queue.shift();
    if (first) {
      this.#release(first.bytes);
      return { done: false, value: first.message };
    }
    if (this.#finished) {
      return this.#end();
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  async return(): Promise<IteratorResult<Message>> {
    this.end();
    return this.next();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
