// The bench: channels of one's own, to write to and to read by every transport.

import { OwnChannel } from "./own.js";
import { say, shortDuration as duration } from "./page.js";
import { Reader } from "./reader.js";
import { call, Unreachable } from "./site.js";
import { Writer } from "./writer.js";

const $ = (id) => document.getElementById(id);

export class Bench {
	#monitor;
	#listeners = [];
	#readers = new Map();
	#writer;
	/** The page's own channels. */
	channels = [];

	constructor(monitor) {
		this.#monitor = monitor;
		this.#writer = new Writer(monitor, this);
		monitor.onChange(() => this.#show());
		$("create").onsubmit = this.#handle(() => this.#create());
		$("existing").onsubmit = this.#handle(() => this.#useExisting());
		$("read-all").onclick = () => this.#readers.forEach((reader) => reader.start());
		$("stop-all").onclick = () => this.#readers.forEach((reader) => reader.stop());
	}

	/** Prepares what the site serves. The site is known by then. */
	start() {
		const serves = (endpoint) => this.#monitor.serves(endpoint);
		for (const kind of this.#monitor.site.transports) {
			const reader = new Reader(kind, this.#monitor, (channel) =>
				[...this.#readers.values()].filter(({ channel: theirs }) => channel && theirs === channel));
			this.#readers.set(kind, reader);
			$("readers").append(reader.element);
		}
		$("settings").textContent = settings(this.#monitor.site.settings);
		const off = ["create", "write", "read"].filter((name) => !serves(name));
		$("off").textContent = off.length
			? `This site does not serve ${off.join(" and ")}. What needs ${off.length > 1 ? "them" : "it"} is left out here.` : "";
		$("create").hidden = !serves("create");
		$("use").open = !serves("create");
		$("write-part").hidden = !serves("write");
		$("read-part").hidden = !serves("read");
		$("create").querySelector("button").disabled = false;
		$("existing").querySelector("button").disabled = false;
		this.#empty();
	}

	/** Calls a function when there are other channels. */
	onChange(listener) {
		this.#listeners.push(listener);
	}

	/** Returns the own channel with an id, if there is one. */
	owner(id) {
		return this.channels.find(({ state }) => state?.id === id);
	}

	/** Makes a listener for a form's submission. The page shows what submit throws. */
	#handle(submit) {
		return async (event) => {
			event.preventDefault();
			say($("trouble"), "");
			try {
				await submit(event);
			} catch (error) {
				this.trouble(error);
			}
		};
	}

	trouble(error) {
		say($("trouble"), error instanceof Unreachable ? "Not done: the server does not answer." : `Not done: ${error.message}.`);
	}

	async #create() {
		const kinds = [...this.#readers.keys()];
		const shares = new FormData($("create")).get("mode") === "one" ? [kinds] : kinds.map((kind) => [kind]);
		const created = await Promise.all(shares.map(() => call("create", "POST")));
		this.#use(created.map((addresses, i) => ({ ...addresses, kinds: shares[i] })));
	}

	#useExisting() {
		const { consumer, producer } = Object.fromEntries(new FormData($("existing")));
		this.#use([{ consumerAddress: consumer.trim(), producerAddress: producer.trim(), kinds: [...this.#readers.keys()] }]);
	}

	/** Uses these channels from now on. */
	#use(these) {
		this.channels = these.map((addresses) => new OwnChannel(addresses, this.#monitor, this));
		for (const channel of this.channels) {
			channel.kinds.forEach((kind) => this.#readers.get(kind).use(channel));
		}
		$("own").replaceChildren(...this.channels.map(({ element }) => element));
		this.#monitor.mine = this.channels.map(({ consumerAddress }) => consumerAddress);
		this.#empty();
		this.#writer.reset();
		this.#listeners.forEach((listener) => listener());
		this.#monitor.ask();
	}

	/** Says what is missing, and switches off what needs it. */
	#empty() {
		const none = !this.channels.length;
		$("no-own").hidden = !none;
		$("read-all").disabled = $("stop-all").disabled = none;
		const shared = this.channels.some(({ kinds }) => kinds.length > 1);
		say($("shared"), shared ? "All transports share one channel, and a channel has one reader at a time: the last one that begins takes over, or is refused." : "");
	}

	#show() {
		this.channels.forEach((channel) => channel.show());
	}
}

/** Says what the server's settings mean for channels. */
function settings({ buffer, hold, ttl, readDuration, streamDuration }) {
	const full = hold ? `producers wait for up to ${duration(hold)}` : "producers are refused at once";
	return `A channel holds ${buffer} pending messages. When it is full, ${full}. It lives ${duration(ttl)} without a reader. ` +
		`A read lasts ${duration(readDuration)}, a stream ${duration(streamDuration)}.`;
}
