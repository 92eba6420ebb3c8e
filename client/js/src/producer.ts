// The producer: a backend uses it to create channels and write to them.

import { Backoff } from "./backoff.js";
import { MegaphoneError, asFault, refusal } from "./errors.js";
import { Pause } from "./timer.js";

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

export interface OutgoingMessage {
  streamId: string;
  body: unknown;
  /** Identifies the message, so that it takes effect once however often you write it. Default: a random key. */
  key?: string;
}

/** A message that a channel has not accepted. */
export interface Failure {
  channel: string;
  /** The position of the message among those written, from 0. */
  index: number;
  reason: string;
}

export interface IngestResult {
  written: number;
  failures: Failure[];
  failuresTotal: number;
}

export interface ProducerOptions {
  /** How often to try a request that gets no answer. Default: 3. */
  attempts?: number;
  /** How long one attempt may take, in milliseconds. A server may hold a write for 10 s. Default: 30000. */
  timeout?: number;
  /** A fetch of your own, for example one that adds a header. */
  fetch?: typeof fetch;
}

/** Writes to channels. Every method throws a `MegaphoneError` if the server refuses the request or it fails. */
export class Producer {
  #base: string;
  #attempts: number;
  #timeout: number;
  #fetch: typeof fetch;

  /** @param url the URL before `/create`, `/write` and so on, such as `http://127.0.0.1:3000` */
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

  /** Writes one message. When this returns, the message is in the channel's buffer. */
  async write(channel: Target, streamId: string, body: unknown, key: string = crypto.randomUUID()): Promise<void> {
    await this.#post(`/write/${addressOf(channel)}/${encodeURIComponent(streamId)}`, body, { "Idempotency-Key": key });
  }

  /** Writes each message to each channel. Returns the messages that channels have not accepted. */
  async writeBatch(channels: readonly Target[], messages: readonly OutgoingMessage[]): Promise<Failure[]> {
    const reply = await this.#post("/write-batch", {
      channels: channels.map(addressOf),
      messages: messages.map((message) => ({ ...message, key: message.key ?? crypto.randomUUID() })),
    });
    return reply.failures;
  }

  /** Reports for each address whether its channel exists. */
  async exist(addresses: readonly string[]): Promise<Record<string, boolean>> {
    return (await this.#post("/channelsExists", { channels: addresses })).channels;
  }

  /**
   * Writes messages to any channels in one request, until the iterable ends. Does not repeat anything by itself. Use it
   * in Node and Deno: not every browser can stream requests.
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
      source.return().catch(() => {}); // not every platform ends the source when the request ends
    }
  }

  /** Posts JSON. Repeats the request if there was no answer, because a message with a key takes effect only once. */
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

/** Turns messages into a stream of bytes, no faster than the request sends them. */
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
