// Messages on their way to the page: the listeners of each stream, and the messages that wait for a listener.

/** A message as the server sends it. */
export interface Message<Body = any> {
  /** The id of its stream. */
  sid: string;
  /** The event id, unique for each message. */
  eid: string;
  /** When the server accepted it, in RFC 3339 format, in UTC. */
  ts: string;
  body: Body;
}

export type Listener<Body = any> = (message: Message<Body>) => void;

/** How many messages are kept for streams without a listener. */
const maxUnclaimed = 100;

/** About how much memory a message needs besides its text, in bytes. */
const overhead = 256;

interface Subscriber {
  listener: Listener;
  /** The messages that the listener must get first. It is undefined once the listener has them. */
  backlog: Message[] | undefined;
}

/** All messages on their way to the page. */
export class Streams {
  #all: Subscriber[] = [];
  #subscribers = new Map<string, Subscriber[]>();
  #unclaimed: Message[] = [];
  #iterators = new Set<Iteration>();
  #buffered = 0;
  #limit: number;
  #room: { promise: Promise<void>; resolve: () => void } | undefined;
  #fail: (error: unknown) => void;
  #closed = false;

  /**
   * @param limit about how many bytes wait in iterators before reading pauses
   * @param fail is called with errors that listeners throw
   */
  constructor(limit: number, fail: (error: unknown) => void) {
    this.#limit = limit;
    this.#fail = fail;
  }

  /** Adds a listener for a stream, or for all streams. Returns a function that removes it. */
  subscribe(sid: string | undefined, listener: Listener): () => void {
    let list = sid === undefined ? this.#all : this.#subscribers.get(sid);
    if (!list) {
      this.#subscribers.set(sid!, (list = []));
    }
    const subscriber: Subscriber = { listener, backlog: this.#claim(sid) };
    list.push(subscriber);
    // The listener runs only after subscribe has returned.
    queueMicrotask(() => {
      for (let message; (message = subscriber.backlog!.shift());) {
        this.#call(subscriber, message);
      }
      subscriber.backlog = undefined;
    });
    return () => {
      const i = list.indexOf(subscriber);
      if (i >= 0) {
        list.splice(i, 1);
        subscriber.listener = () => {};
        this.#leave(subscriber.backlog?.splice(0) ?? []);
      }
      if (sid !== undefined && list.length === 0 && this.#subscribers.get(sid) === list) {
        this.#subscribers.delete(sid);
      }
    };
  }

  /** Returns an iterator over the messages of a stream, or of all streams. */
  iterate(sid: string | undefined, signal?: AbortSignal): AsyncIterableIterator<Message> {
    const iteration = new Iteration((bytes) => this.#release(bytes));
    if (this.#closed || signal?.aborted) {
      iteration.end();
      return iteration;
    }
    const unsubscribe = this.subscribe(sid, (message) => {
      const bytes = sizes.get(message)!;
      this.#buffered += bytes;
      iteration.push(message, bytes);
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
  dispatch(message: Message, length: number): void {
    sizes.set(message, length + overhead);
    const subscribers = [...(this.#subscribers.get(message.sid) ?? []), ...this.#all];
    if (subscribers.length === 0) {
      this.#unclaimed.push(message);
      this.#unclaimed.splice(0, this.#unclaimed.length - maxUnclaimed);
    }
    for (const subscriber of subscribers) {
      if (subscriber.backlog) {
        subscriber.backlog.push(message);
      } else {
        this.#call(subscriber, message);
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
  #claim(sid: string | undefined): Message[] {
    const claimed = this.#unclaimed.filter((message) => sid === undefined || message.sid === sid);
    this.#unclaimed = this.#unclaimed.filter((message) => !claimed.includes(message));
    return claimed;
  }

  /**
   * Takes back the messages that a leaving listener has not handled. They wait for the next listener, unless another
   * listener has got them.
   */
  #leave(messages: Message[]): void {
    const unclaimed = messages.filter(({ sid }) => !this.#all.length && !this.#subscribers.get(sid)?.length);
    this.#unclaimed = [...unclaimed, ...this.#unclaimed]; // keeps all of them, in case the next listener comes soon
  }

  #release(bytes: number): void {
    this.#buffered -= bytes;
    if (this.#room && this.#buffered < this.#limit) {
      this.#room.resolve();
      this.#room = undefined;
    }
  }

  #call(subscriber: Subscriber, message: Message): void {
    try {
      subscriber.listener(message);
    } catch (error) {
      this.#fail(error);
    }
  }
}

/** How much memory each message needs, in bytes. */
const sizes = new WeakMap<Message, number>();

/** Messages that wait until the page asks for them. */
class Iteration implements AsyncIterableIterator<Message> {
  /** Is called at the end with the messages that the page has not asked for, unless the iterator still returns them. */
  onend = (_left: Message[]) => {};
  #queue: { message: Message; bytes: number }[] = [];
  #waiting: ((result: IteratorResult<Message>) => void)[] = [];
  #finished = false;
  #release: (bytes: number) => void;

  constructor(release: (bytes: number) => void) {
    this.#release = release;
  }

  push(message: Message, bytes: number): void {
    const waiting = this.#waiting.shift();
    if (waiting) {
      this.#release(bytes);
      waiting({ done: false, value: message });
    } else {
      this.#queue.push({ message, bytes });
    }
  }

  /** Ends the iterator. It still returns the messages in its queue. */
  finish(): void {
    this.#finished = true;
    this.#waiting.splice(0).forEach((waiting) => waiting({ done: true, value: undefined }));
    this.onend([]);
  }

  /** Ends the iterator at once. */
  end(): void {
    this.finish();
    const left = this.#queue.splice(0);
    this.onend(left.map(({ message }) => message));
    left.forEach(({ bytes }) => this.#release(bytes));
  }

  async next(): Promise<IteratorResult<Message>> {
    const first = this.#queue.shift();
    if (first) {
      this.#release(first.bytes);
      return { done: false, value: first.message };
    }
    if (this.#finished) {
      return { done: true, value: undefined };
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  async return(): Promise<IteratorResult<Message>> {
    this.end();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
