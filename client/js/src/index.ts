// The package's entry for clients. Backends import `@caddy-megaphone/client/producer`.

export type { Channel, ChannelSource } from "./channel.js";
export { MegaphoneError } from "./errors.js";
export { Megaphone } from "./megaphone.js";
export type { Events, Options, State } from "./options.js";
export type { Listener, Message } from "./streams.js";
export type { TransportName } from "./transport.js";
