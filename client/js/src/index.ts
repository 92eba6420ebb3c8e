// The package's entry for clients. Backends import `@caddy-megaphone/client/producer`.

export type { Channel, ChannelSource } from "./channel.js";
export type { Schema } from "./decode.js";
export type { Debug } from "./emitter.js";
export { MegaphoneError } from "./errors.js";
export { Megaphone } from "./megaphone.js";
export type { Asked, Events, Fault, Options, State } from "./options.js";
export type { AnyMessage, End, Listener, Message } from "./streams.js";
export type { TransportName } from "./transport.js";
