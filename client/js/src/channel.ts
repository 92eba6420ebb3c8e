// Which channel to read.

import { MegaphoneError } from "./errors.js";

/** A channel: its consumer address, or the reply of `create`. Of the reply, the client uses only `consumerAddress`. */
export type Channel = string | { consumerAddress: string };

/**
 * A channel, or a function that creates one and returns it or a promise of it. The client calls the function again when
 * the channel is gone.
 */
export type ChannelSource = Channel | (() => Channel | Promise<Channel>);

/** Returns the consumer address of a channel. If the source is a function, calls it to create the channel. */
export async function resolve(source: ChannelSource): Promise<string> {
  let channel: Channel | undefined;
  let cause: unknown;
  try {
    channel = typeof source === "function" ? await source() : source;
  } catch (error) {
    cause = error;
  }
  const address = typeof channel === "string" ? channel : channel?.consumerAddress;
  if (typeof address !== "string") {
    const message = "there is no channel: give an address, or an object with consumerAddress";
    throw new MegaphoneError("NO_CHANNEL", message, { cause });
  }
  return address;
}

/** Waits until the signal aborts. If the signal never aborts, waits forever. */
export function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(undefined)));
}
