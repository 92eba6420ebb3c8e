// The other side: a backend that creates channels and writes to them.

import { Backoff } from "./backoff.js";
import { MegaphoneError, asFault, refusal } from "./errors.js";
import { Pause } from "./timer.js";

export { MegaphoneError } from "./errors.js";

/** The reply of `create`. */
export interface CreatedChannel {
  producerAddress: string;
  /** What the client gets to know. */
  consumerAddress: string;
  agentName: string;
  protocols: string[];
}

/** Where to write to: a producer address, or the reply of `create`. */
export type Target = string | { producerAddress: string };

export interface OutgoingMessage {
  streamId: string;
  body: unknown;
  /** Names the message, so that it takes effect once however often it is written. Default: a random one. */
  key?: string;
}

/** A message that a channel has not taken. */
export interface Failure {
  channel: string;
  /** Which of the messages, from 0. */
  index: number;
  reason: string;
}

export interface IngestResult {
  written: number;
  failures: Failure[];
  failuresTotal: number;
}

export interface ProducerOptions {
  /** How often a write is tried when there is no answer. Default: 3. */
  attempts?: number;
  /** How long one attempt may take, in milliseconds. The server may hold a write for 10 s. Default: 30000. */
  timeout?: number;
  /** A fetch of your own, which adds a header for example. */
  fetch?: typeof fetch;
}

/** Writes to channels. Every method throws a `MegaphoneError` when it is refused. */
export class Producer {
  #base: string;
  #attempts: number;
  #timeout: number;
  #fetch: typeof fetch;

  /** @param url where `/create`, `/write` and so on are found, such as `http://127.0.0.1:3000` */
  constructor(url: string | URL, { attempts = 3, timeout = 30_000, fetch = globalThis.fetch }: ProducerOptions = {}) {
    this.#base = String(url).replace(/\/+$/, "");
    this.#attempts = attempts;
    this.#timeout = timeout;
    this.#fetch = fetch;
  }

  /** Creates a channel. */
  async create(protocols?: string[]): Promise<CreatedChannel> {
    return this.#post("/create", protocols && { protocols });
  }

  /** Writes one message. It is in the channel's buffer when this returns. */
  async write(channel: Target, streamId: string, body: unknown, key: string = crypto.randomUUID()): Promise<void> {
    await this.#post(`/write/${addressOf(channel)}/${encodeURIComponent(streamId)}`, body, { "Idempotency-Key": key });
  }

  /** Writes each message to each channel. Returns what was not taken. */
  async writeBatch(channels: readonly Target[], messages: readonly OutgoingMessage[]): Promise<Failure[]> {
    const reply = await this.#post("/write-batch", {
      channels: channels.map(addressOf),
      messages: messages.map((message) => ({ ...message, key: message.key ?? crypto.randomUUID() })),
    });
    return reply.failures;
  }

  /** Tells which channels there are, by their addresses. */
  async exist(addresses: readonly string[]): Promise<Record<string, boolean>> {
    return (await this.#post("/channelsExists", { channels: addresses })).channels;
  }

  /**
   * Writes messages to any channels for as long as they come, in one request. Repeats nothing by itself. For Node
   * and Deno: browsers do not stream requests everywhere.
   */
  async ingest(
    messages: AsyncIterable<OutgoingMessage & { channel: Target }> | Iterable<OutgoingMessage & { channel: Target }>,
    options: { signal?: AbortSignal } = {},
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
      signal: options.signal ?? null,
    };
    try {
      return await this.#reply("/write", request);
    } finally {
      source.return().catch(() => {}); // not every platform tells the source when the request is over
    }
  }

  /** Posts JSON, again if there was no answer: with a key a message takes effect once. */
  async #post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<any> {
    const backoff = new Backoff(200, 5000);
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#reply(path, {
          method: "POST",
          headers: { "Content-Type": "application/json", ...headers },
          body: body === undefined ? null : JSON.stringify(body),
          signal: AbortSignal.timeout(this.#timeout),
        });
      } catch (error) {
        const { code } = error as MegaphoneError;
        if (code !== "NETWORK" || attempt >= this.#attempts) {
          throw error;
        }
        await new Pause().wait(backoff.next());
      }
    }
  }

  async #reply(path: string, request: RequestInit): Promise<any> {
    try {
      const fetch = this.#fetch;
      const response = await fetch(this.#base + path, request);
      if (!response.ok) {
        throw await refusal(response);
      }
      return await response.json();
    } catch (error) {
      throw asFault(error);
    }
  }
}

function addressOf(channel: Target): string {
  return typeof channel === "string" ? channel : channel.producerAddress;
}

/** Makes a stream of bytes from messages, no faster than they are sent. */
function lines(source: AsyncGenerator<OutgoingMessage & { channel: Target }>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await source.next();
      if (done) {
        controller.close();
      } else {
        controller.enqueue(encoder.encode(JSON.stringify({ ...value, channel: addressOf(value.channel) }) + "\n"));
      }
    },
  });
}
