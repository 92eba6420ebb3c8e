// The package's front door for clients. Backends import `@caddy-megaphone/client/producer`.

export type { Channel, ChannelSource } from "./channel.js";
export { MegaphoneError } from "./errors.js";
export { Megaphone, type Events, type Options, type State } from "./megaphone.js";
export type { Listener, Message } from "./streams.js";
export type { TransportName } from "./transport.js";
