// Which channel to read, and at which address.

import { MegaphoneError } from "./errors.js";

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
export async function resolve(source: ChannelSource, base: string): Promise<string> {
  const channel = await ask(source);
  const { consumerAddress, url } = (typeof channel === "string" ? { consumerAddress: channel } : (channel ?? {})) as {
    consumerAddress?: unknown;
    url?: string | URL;
  };
  const read = new URL(url ?? base, base);
  if (!url) {
    if (typeof consumerAddress !== "string") {
      throw new MegaphoneError("NO_CHANNEL", "no channel: give an address, or an object with consumerAddress");
    }
    read.pathname = read.pathname.replace(/\/*$/, `/read/${encodeURIComponent(consumerAddress)}`);
  }
  read.hash = "";
  return read.href;
}

/** Returns a value, or calls the application's function for it. Marks what the function throws as the application's. */
export async function ask<Value>(
  value: Value | ((fault?: Error) => Value | Promise<Value>),
  fault?: Error,
): Promise<Value> {
  try {
    return await (typeof value === "function" ? (value as (fault?: Error) => Value)(fault) : value);
  } catch (cause) {
    throw new MegaphoneError("APPLICATION", "", { cause });
  }
}

/** Waits until the signal aborts. If the signal never aborts, waits forever. */
export function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(undefined)));
}
