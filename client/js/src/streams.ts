// Messages on their way to the page: who listens to which stream, and what waits for somebody.

/** A message, as the server sends it. */
export interface Message<Body = any> {
  /** The stream that it was written to. */
  sid: string;
  /** The event id, unique for each message. */
  eid: string;
  /** When the server accepted it: RFC 3339, UTC. */
  ts: string;
  body: Body;
}

export type Listener<Body = any> = (message: Message<Body>) => void;

/** How many messages wait of streams that nobody listens to yet. */
const maxUnclaimed = 100;

/** About what a message costs in memory beside its text, in bytes. */
const overhead = 256;

interface Subscriber {
  listener: Listener;
  /** What it has to be given first, until that is done. */
  backlog: Message[] | undefined;
}

/** Everything on its way to the page. */
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

  /** limit: about how many bytes wait in iterators before reading pauses; fail: takes what listeners throw. */
  constructor(limit: number, fail: (error: unknown) => void) {
    this.#limit = limit;
    this.#fail = fail;
  }

  /** Adds a listener to a stream, or to all of them. Returns a function that removes it. */
  subscribe(sid: string | undefined, listener: Listener): () => void {
    let list = sid === undefined ? this.#all : this.#subscribers.get(sid);
    if (!list) {
      this.#subscribers.set(sid!, (list = []));
    }
    const subscriber: Subscriber = { listener, backlog: this.#claim(sid) };
    list.push(subscriber);
    // The caller first gets to know that it has subscribed.
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

  /** Returns an iterator of the messages of a stream, or of all. */
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

  /** Passes a message on, whose text has so many characters. */
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

  /** Waits while too much is buffered; undefined if it is not. */
  room(): Promise<void> | undefined {
    if (this.#buffered >= this.#limit && !this.#room) {
      let resolve!: () => void;
      this.#room = { promise: new Promise((r) => (resolve = r)), resolve };
    }
    return this.#room?.promise;
  }

  /** Ends all iterators, after what they hold. */
  close(): void {
    this.#closed = true;
    this.#iterators.forEach((iteration) => iteration.finish());
    this.#room?.resolve();
  }

  /** Takes the messages of a stream, or all, that nobody has listened to. */
  #claim(sid: string | undefined): Message[] {
    const claimed = this.#unclaimed.filter((message) => sid === undefined || message.sid === sid);
    this.#unclaimed = this.#unclaimed.filter((message) => !claimed.includes(message));
    return claimed;
  }

  /** Takes back what somebody leaves who listens no more. It waits for the next one, unless others have it. */
  #leave(messages: Message[]): void {
    const unclaimed = messages.filter(({ sid }) => !this.#all.length && !this.#subscribers.get(sid)?.length);
    this.#unclaimed = [...unclaimed, ...this.#unclaimed]; // all, in case that the next one is about to come
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

/** What messages cost in memory, in bytes. */
const sizes = new WeakMap<Message, number>();

/** Messages that wait until the page asks for them. */
class Iteration implements AsyncIterableIterator<Message> {
  /** Is told what nobody has asked for at the end, if that is not kept for who does. */
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

  /** Ends after what is queued. */
  finish(): void {
    this.#finished = true;
    this.#waiting.splice(0).forEach((waiting) => waiting({ done: true, value: undefined }));
    this.onend([]);
  }

  /** Ends at once. */
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
