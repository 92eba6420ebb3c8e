// The producer: a backend uses it to create channels, and to write to them and to topics.

import { Backoff } from "./backoff.js";
import { MegaphoneError, asFault, refusal } from "./errors.js";
import { Pause, within } from "./timer.js";

export { MegaphoneError } from "./errors.js";

/** The reply of `create`. */
export interface CreatedChannel {
  producerAddress: string;
  /** The address to give to the client. */
  consumerAddress: string;
  agentName: string;
  protocols: string[];
}

/** The channel to write to: a producer address, or the reply of `create`. */
export type Target = string | { producerAddress: string };

/** What a producer can say about a message. */
export interface WriteOptions {
  /** Identifies the message, so that it takes effect once however often you write it. Default: a random key. */
  key?: string | undefined;
  /**
   * What happens if the reader is slow, and the newest message that waits for it is of the same stream and was written
   * with the same `merge`: `replace` takes its place, `append` joins both texts, or both arrays.
   */
  merge?: "replace" | "append" | undefined;
}

export interface OutgoingMessage extends WriteOptions {
  streamId: string;
  body: unknown;
}

/** A message that a channel, or a topic, has not accepted. */
export interface Failure {
  channel: string;
  /** The position of the message among those written, from 0. */
  index: number;
  reason: string;
}

/** A failure of `ingest`. It has `topic` in place of `channel` if the message was for a topic. */
export type IngestFailure = Failure | (Omit<Failure, "channel"> & { topic: string });

export interface IngestResult {
  written: number;
  failures: IngestFailure[];
  failuresTotal: number;
}

/** A message of `ingest`: to a channel, or to a topic. */
export type IngestMessage = OutgoingMessage & ({ channel: Target } | { topic: string });

/** How many kept messages of a topic a new member gets. */
export type Last = number | "all";

export interface CreateOptions {
  protocols?: string[];
  /** How long the channel lives without a reader, such as `"10m"`. */
  ttl?: string;
  /**
   * The topics to join. With this option, even if the list is empty, the reader learns how many messages it has missed,
   * and that streams have ended.
   */
  topics?: readonly (string | { topic: string; last?: Last })[];
}

export interface ChannelState {
  address: string;
  /** Whether a client reads it. */
  connected: boolean;
  /** How many messages were not sent yet. */
  pending: number;
  /** How many were sent, and are not known to be received. */
  inFlight: number;
  created: string;
  lastRead: string | null;
  expires: string | null;
}

/** What became of a published message. */
export interface Published {
  /** How many channels are members of the topic. */
  members: number;
  /** How many of them have taken the message. */
  accepted: number;
  /** How many had no room for it. */
  full: number;
}

export interface TopicState {
  members: number;
  /** How many members are being read. */
  connected: number;
  /** How many messages the topic keeps. */
  kept: number;
  closed: null | "done" | "aborted";
}

export interface ProducerOptions {
  /** How often to try a request that gets no answer. Default: 3. */
  attempts?: number;
  /** How long one attempt may take, in milliseconds. A server may hold a write for 10 s. Default: 30000. */
  timeout?: number;
  /** Headers of requests, or a function that is asked before each request. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** A fetch of your own. */
  fetch?: typeof fetch;
}

/** Writes to channels and topics. Every method throws a `MegaphoneError` if the server refuses the request or it fails. */
export class Producer {
  #base: string;
  #attempts: number;
  #timeout: number;
  #headers: ProducerOptions["headers"];
  #fetch: typeof fetch;

  /**
   * @param url the URL before `/create`, `/write` and so on, such as `http://127.0.0.1:3000`. It may have a query
   */
  constructor(
    url: string | URL,
    { attempts = 3, timeout = 30_000, headers, fetch = globalThis.fetch }: ProducerOptions = {},
  ) {
    this.#base = new URL(url, globalThis.location?.href).href;
    this.#attempts = attempts;
    this.#timeout = timeout;
    this.#headers = headers;
    this.#fetch = fetch;
  }

  /** Creates a channel. */
  async create(options?: CreateOptions | string[]): Promise<CreatedChannel> {
    return this.#send("POST", "/create", Array.isArray(options) ? { protocols: options } : options);
  }

  /** Writes one message. When this returns, the message is in the channel's buffer. */
  async write(
    channel: Target,
    streamId: string,
    body: unknown,
    options: string | WriteOptions = {},
  ): Promise<void> {
    const { key, merge } = typeof options === "string" ? { key: options } : (options as WriteOptions);
    await this.#send("POST", path("write", addressOf(channel), streamId), body, settings(key, merge));
  }

  /** Writes each message to each channel. Returns the messages that channels have not accepted. */
  async writeBatch(channels: readonly Target[], messages: readonly OutgoingMessage[]): Promise<Failure[]> {
    const reply = await this.#send("POST", "/write-batch", {
      channels: channels.map(addressOf),
      messages: messages.map((message) => ({ ...message, key: message.key ?? crypto.randomUUID() })),
    });
    return reply.failures;
  }

  /** Returns the state of a channel. The site must serve `manage`. */
  async state(channel: Target): Promise<ChannelState> {
    return this.#send("GET", path("channel", addressOf(channel)));
  }

  /** Deletes a channel. The site must serve `manage`. */
  async delete(channel: Target): Promise<void> {
    await this.#send("DELETE", path("channel", addressOf(channel)));
  }

  /** Reports for each address whether its channel exists. */
  async exist(addresses: readonly string[]): Promise<Record<string, boolean>> {
    return (await this.#send("POST", "/channelsExists", { channels: addresses })).channels;
  }

  /**
   * Writes a message to every member of a topic, and to the topic's memory. Members without room miss it, unless `full`
   * is `hold` (wait for them, as `writeBatch` does) or `delete` (delete their channels).
   */
  async publish(
    topic: string,
    streamId: string,
    body: unknown,
    { key, merge, full }: WriteOptions & { full?: "hold" | "delete" } = {},
  ): Promise<Published> {
    return this.#send("POST", path("publish", topic, streamId), body, settings(key, merge), full && { full });
  }

  /** Makes a channel a member of a topic. It then gets what is published, and before that the `last` kept messages. */
  async join(topic: string, channel: Target, { last }: { last?: Last } = {}): Promise<void> {
    const query = last === undefined ? undefined : { last: String(last) };
    await this.#send("PUT", path("topic", topic, addressOf(channel)), undefined, {}, query);
  }

  /** Ends the membership of a channel. */
  async leave(topic: string, channel: Target): Promise<void> {
    await this.#send("DELETE", path("topic", topic, addressOf(channel)));
  }

  /**
   * Makes a topic keep its newest messages: `keep` says how many bytes of them (`"1MB"`), `ttl` how long without members
   * and new messages (`"1h"`).
   */
  async keep(topic: string, options: { keep?: string; ttl?: string } = {}): Promise<void> {
    await this.#send("PUT", path("topic", topic), options);
  }

  /** Closes a topic: its members learn that the stream has ended. The stream id is the topic's name by default. */
  async close(topic: string, options: { as?: "done" | "aborted"; streamId?: string } = {}): Promise<void> {
    await this.#send("POST", path("topic", topic, "close"), options);
  }

  /** Returns the state of a topic. */
  async topic(topic: string): Promise<TopicState> {
    return this.#send("GET", path("topic", topic));
  }

  /**
   * Writes messages to any channels and topics in one request, until the iterable ends. Does not repeat anything by
   * itself. `close` names topics to close at the end: as `done`, or as `aborted` if the request breaks. Use it in Node
   * and Deno: not every browser can stream requests.
   */
  async ingest(
    messages: AsyncIterable<IngestMessage> | Iterable<IngestMessage>,
    { signal, close = [] }: { signal?: AbortSignal; close?: readonly string[] } = {},
  ): Promise<IngestResult> {
    const each = async function* () {
      yield* messages;
    };
    const source = each();
    const request: RequestInit & { duplex: "half" } = {
      method: "POST",
      headers: { "Content-Type": "application/x-ndjson" },
      body: lines(source),
      duplex: "half",
      signal: signal ?? null,
    };
    try {
      return await this.#reply("/write", request, close.map((topic) => ["close", topic]));
    } finally {
      source.return().catch(() => {}); // not every platform ends the source when the request ends
    }
  }

  /** Sends JSON. Repeats the request if there was no answer: a message has a key, and all else can be repeated. */
  async #send(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
    query?: Record<string, string> | "",
  ): Promise<any> {
    const backoff = new Backoff(200, 5000);
    for (let attempt = 1; ; attempt++) {
      const request: RequestInit = { method, headers, signal: AbortSignal.timeout(this.#timeout) };
      if (body !== undefined) {
        request.body = JSON.stringify(body);
        request.headers = { "Content-Type": "application/json", ...headers };
      }
      try {
        return await this.#reply(path, request, Object.entries(query || {}));
      } catch (error) {
        if ((error as MegaphoneError).code !== "NETWORK" || attempt >= this.#attempts) {
          throw error;
        }
        await new Pause().wait(backoff.next());
      }
    }
  }

  async #reply(path: string, request: RequestInit, query: string[][]): Promise<any> {
    const url = new URL(this.#base);
    url.pathname = url.pathname.replace(/\/*$/, path);
    url.hash = "";
    query.forEach(([name, value]) => url.searchParams.append(name!, value!));
    const own = this.#headers;
    const headers = new Headers(typeof own === "function" ? await within(this.#timeout, "headers", own()) : own);
    new Headers(request.headers).forEach((value, name) => headers.set(name, value));
    try {
      const fetch = this.#fetch;
      const response = await fetch(url.href, { ...request, headers });
      if (!response.ok || !/json/i.test(response.headers.get("Content-Type")!)) {
        const fault = await refusal(response);
        response.body?.cancel().catch(() => {}); // if it was not read, it may be endless
        throw fault;
      }
      return await response.json();
    } catch (error) {
      throw asFault(error);
    }
  }
}

/** Returns a path of these segments. Throws if one is of dots, since a URL loses it: the request would go elsewhere. */
function path(...segments: string[]): string {
  return segments
    .map((segment) => {
      if (/^\.{1,2}$/.test(segment)) {
        const text = `a stream id, topic or address cannot be "${segment}" in a URL. writeBatch and ingest take any`;
        throw new MegaphoneError("BAD_REQUEST", text);
      }
      return `/${encodeURIComponent(segment)}`;
    })
    .join("");
}

/** Returns the headers that say what a producer says about a message. */
function settings(key: string = crypto.randomUUID(), merge: WriteOptions["merge"]): Record<string, string> {
  return { "Idempotency-Key": key, ...(merge && { "Megaphone-Merge": merge }) };
}

function addressOf(channel: Target): string {
  return typeof channel === "string" ? channel : channel.producerAddress;
}

/** Turns messages into a stream of bytes, no faster than the request sends them. */
function lines(source: AsyncGenerator<IngestMessage>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await source.next();
      if (done) {
        controller.close();
      } else {
        const line = "channel" in value ? { ...value, channel: addressOf(value.channel) } : value;
        controller.enqueue(encoder.encode(JSON.stringify(line) + "\n"));
      }
    },
  });
}
