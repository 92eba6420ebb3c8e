// Which channel to read, and at which address.

import { MegaphoneError } from "./errors.js";
import { within } from "./timer.js";

/**
 * A channel: its consumer address, or the reply of `create`, of which the client uses only `consumerAddress`. Or an
 * address of your own, whole, at which your backend names the channel: `{ url: "/events" }`.
 */
export type Channel = string | { consumerAddress: string } | { url: string | URL };

/**
 * A channel, or a function that creates one and returns it or a promise of it. The client calls the function again when
 * the channel is gone.
 */
export type ChannelSource = Channel | (() => Channel | Promise<Channel>);

/** Returns the URL to read from. If the source is a function, calls it to create the channel. */
export async function resolve(source: ChannelSource, base: string, options: Patience): Promise<string> {
  const channel = await ask("channel", source, options);
  const { consumerAddress, url } = (typeof channel === "string" ? { consumerAddress: channel } : (channel ?? {})) as {
    consumerAddress?: unknown;
    url?: string | URL;
  };
  const read = new URL(url ?? base, base);
  if (!url) {
    // A URL would lose a segment of dots.
    if (typeof consumerAddress !== "string" || /^\.{1,2}$/.test(consumerAddress)) {
      throw new MegaphoneError("NO_CHANNEL", "the channel has no consumerAddress");
    }
    read.pathname = read.pathname.replace(/\/*$/, `/read/${encodeURIComponent(consumerAddress)}`);
  }
  read.hash = "";
  return read.href;
}

/** What says how long the client waits for a function. */
interface Patience {
  patience?: number | undefined;
}

/** Returns a value, or calls the application's function for it. Marks what the function throws as the application's. */
export async function ask<Value>(
  name: string,
  value: Value | ((fault?: Error) => Value | Promise<Value>),
  { patience }: Patience,
  fault?: Error,
): Promise<Value> {
  try {
    return await within(patience, name, typeof value === "function" ? (value as (fault?: Error) => Value)(fault) : value);
  } catch (cause) {
    throw new MegaphoneError("APPLICATION", "", { cause });
  }
}
