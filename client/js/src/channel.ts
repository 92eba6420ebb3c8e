// Which channel is read.

import { MegaphoneError } from "./errors.js";

/** A channel: its consumer address, or the reply of `create`, of which only that is used. */
export type Channel = string | { consumerAddress: string };

/** A channel, or a function that creates one, perhaps later: it is called again when the channel is gone. */
export type ChannelSource = Channel | (() => Channel | Promise<Channel>);

/** Returns the consumer address of a channel, which is created if need be. */
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
    throw new MegaphoneError("NO_CHANNEL", "there is no channel: it needs a consumerAddress", { cause });
  }
  return address;
}

/** Waits until the signal aborts, for ever if it does not. */
export function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(undefined)));
}
