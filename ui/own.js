// A channel that this page has made, or was given.

import { Buffer, words } from "./buffer.js";
import { copyButton, node, say } from "./page.js";
import { call } from "./site.js";
import { transports } from "./transports.js";

export class OwnChannel {
	#monitor;
	#bench;
	#words = node("p", { className: "words" });
	#buffer = new Buffer();
	/** The kinds of transport that read the channel. */
	kinds;
	consumerAddress;
	producerAddress;
	element;

	constructor({ consumerAddress, producerAddress, kinds }, monitor, bench) {
		Object.assign(this, { consumerAddress, producerAddress, kinds });
		this.#monitor = monitor;
		this.#bench = bench;
		this.element = node("li", {},
			node("h4", {}, this.name), this.#words, this.#buffer.element, node("div", { className: "buttons" }, ...this.buttons()));
		this.#buffer.element.hidden = true;
		this.show();
	}

	/** Who reads the channel. */
	get name() {
		return this.kinds.length > 1 ? "all transports" : transports[this.kinds[0]].name;
	}

	/** What the server says of the channel: undefined if it says nothing, and null if the channel is gone. */
	get state() {
		return this.#monitor.states.get(this.consumerAddress);
	}

	/** Makes buttons that copy the channel's addresses, or delete it. */
	buttons() {
		const buttons = [copyButton("Copy consumer", "address to read", () => this.consumerAddress)];
		if (this.producerAddress) {
			buttons.push(copyButton("Copy producer", "address to write", () => this.producerAddress));
		}
		if (this.#monitor.serves("manage")) {
			buttons.push(node("button", { type: "button", className: "small danger", onclick: () => this.#delete() }, "Delete"));
		}
		return buttons;
	}

	async #delete() {
		try {
			await call(`channel/${encodeURIComponent(this.consumerAddress)}`, "DELETE");
		} catch (error) {
			if (error.status !== 404) {
				this.#bench.trouble(error);
			}
		}
		this.#monitor.ask();
	}

	/** Shows the channel's state. */
	show() {
		const { state } = this;
		const { site, clock, failure } = this.#monitor;
		if (state === undefined) {
			say(this.#words, this.#monitor.serves("manage") ? "not known yet" : "This site does not serve manage, so the channel’s state is not known.");
			return;
		}
		const { text, state: mark } = state ? words(state, clock) : { text: "is gone", state: "bad" };
		say(this.#words, failure ? `when last seen: ${text}` : text, mark);
		this.#buffer.element.hidden = !state;
		if (state) {
			this.#buffer.show(state, site.settings);
		}
	}
}
