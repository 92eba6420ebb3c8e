// Writes messages to the page's channels, and says what became of them.

import { plural, say, shortDuration } from "./page.js";
import { call, Unreachable } from "./site.js";
import { transports } from "./transports.js";

const $ = (id) => document.getElementById(id);

/** How long a write may take, in milliseconds, before the page looks why. */
const patience = 300;

/** The time between two writes of a steady writer. */
const pace = 500;

export class Writer {
	#monitor;
	#bench;
	#written = 0;
	#steady;
	/** The idempotency keys that each producer address was written to with. */
	#keys = new Map();

	constructor(monitor, bench) {
		this.#monitor = monitor;
		this.#bench = bench;
		$("write").onsubmit = (event) => {
			event.preventDefault();
			this.#write(Number(event.submitter?.value ?? 1));
		};
		$("write").oninput = () => this.#showCurl();
		$("steady").onchange = () => ($("steady").checked ? this.#begin() : this.#end());
	}

	/** Begins anew with the channels of the bench. */
	reset() {
		this.#end();
		this.#keys.clear();
		const none = !this.#addresses.length;
		$("write").querySelectorAll("button, #steady").forEach((element) => (element.disabled = none));
		say($("written"), none ? "The producer address is not known, so there is nothing to write to." : "Nothing written yet.");
		this.#showCurl();
	}

	get #addresses() {
		return this.#bench.channels.map(({ producerAddress }) => producerAddress).filter(Boolean);
	}

	get #form() {
		return Object.fromEntries(new FormData($("write")));
	}

	/** Writes the form's message a number of times, one after the other, and says what became of them. */
	async #write(times) {
		const began = performance.now();
		const outcome = { accepted: 0, repeats: 0, held: 0, refused: new Set() };
		for (let i = 0; i < times; i++) {
			const { stream, body, key } = this.#form;
			const text = numbered(body, this.#written + 1);
			try {
				JSON.parse(text);
			} catch (error) {
				say($("written"), `The body is not JSON: ${error.message}`, "bad");
				return;
			}
			this.#written++;
			if (!(await this.#writeOne(stream, text, numbered(key, this.#written), outcome))) {
				break;
			}
		}
		this.#report(times, outcome, performance.now() - began);
		this.#showCurl();
	}

	/** Writes one message to all channels. Reports whether there is a point in going on. */
	async #writeOne(stream, text, key, outcome) {
		const watch = this.#watch();
		try {
			const refused = await this.#send(stream, text, key);
			refused.forEach((reason) => outcome.refused.add(reason));
			const repeat = key && this.#addresses.every((address) => this.#keys.get(address)?.has(key));
			if (!refused.length) {
				outcome[repeat ? "repeats" : "accepted"]++;
				this.#remember(key);
			}
			outcome.held = Math.max(outcome.held, watch.held());
			return true;
		} catch (error) {
			outcome.held = Math.max(outcome.held, watch.held());
			outcome.refused.add(error instanceof Unreachable ? "" : reason(error.code, error.message));
			return false;
		} finally {
			watch.stop();
		}
	}

	#remember(key) {
		for (const address of key ? this.#addresses : []) {
			this.#keys.set(address, (this.#keys.get(address) ?? new Set()).add(key));
		}
	}

	/** Says that a write is held while it is. */
	#watch() {
		const began = performance.now();
		let held = false;
		const look = () => {
			const took = performance.now() - began;
			if (took < patience) {
				return;
			}
			held ||= this.#bench.channels.some(({ state }) => state?.heldProducers);
			const { hold } = this.#monitor.site.settings;
			say($("written"), held
				? `Held for ${shortDuration(took)}: a channel is full. The write waits for room, ${shortDuration(hold)} at most. Read, and it gets in.`
				: `No reply for ${shortDuration(took)}.`, "warn");
			if (!held) {
				this.#monitor.ask();
			}
		};
		const timer = setInterval(look, patience);
		return {
			stop: () => clearInterval(timer),
			held: () => (held ? performance.now() - began : 0),
		};
	}

	#report(times, { accepted, repeats, held, refused }, took) {
		if (refused.has("")) {
			say($("written"), `${accepted ? `${plural(accepted, "message")} accepted, then no reply` : "No reply"}: the server does not answer. ` +
				"It may have the message all the same. A producer would write again with the same idempotency key.", "bad");
			return;
		}
		const parts = [];
		if (accepted) {
			parts.push(times > 1 ? `${plural(accepted, "message")} accepted` : `Message ${this.#written} accepted`);
		}
		if (repeats) {
			parts.push(`${plural(repeats, "repeat")} of the same key dropped`);
		}
		if (refused.size) {
			parts.push(`refused: ${[...refused].join(", ")}`);
		}
		const text = `${parts.join(", ")}, after ${shortDuration(took)}${held ? `, ${shortDuration(held)} of it held, for want of room` : ""}.`;
		say($("written"), text[0].toUpperCase() + text.slice(1), refused.size ? "bad" : held || repeats ? "warn" : "");
	}

	/** Sends a message to all channels. Returns the reasons why channels refused it. */
	async #send(stream, text, key) {
		const addresses = this.#addresses;
		if (addresses.length === 1 && inPath(stream)) {
			await call(`write/${encodeURIComponent(addresses[0])}/${encodeURIComponent(stream)}`, "POST", text,
				key ? { "Idempotency-Key": key } : {});
			return [];
		}
		const { failures } = await call("write-batch", "POST", batch(addresses, stream, text, key));
		return failures.map((failure) => `${reason(failure.reason, failure.reason)} (${this.#readBy(failure.channel)})`);
	}

	#readBy(producer) {
		const { kinds } = this.#bench.channels.find(({ producerAddress }) => producerAddress === producer);
		return kinds.map((kind) => transports[kind].name).join(", ");
	}

	#begin() {
		let busy = false; // a full channel holds the write, and the next write waits for it
		this.#steady = setInterval(async () => {
			if (!busy) {
				busy = true;
				await this.#write(1);
				busy = false;
			}
		}, pace);
	}

	#end() {
		clearInterval(this.#steady);
		$("steady").checked = false;
	}

	#showCurl() {
		const addresses = this.#addresses;
		const { stream, body = "", key = "" } = this.#form;
		const url = (path) => quote(new URL(`../${path}`, location).href);
		const text = numbered(body, this.#written + 1);
		const sent = numbered(key, this.#written + 1);
		const type = "-H 'Content-Type: application/json'";
		$("curl").textContent = !addresses.length ? "There is no channel to write to yet." : (addresses.length === 1 && inPath(stream)
			? [`curl ${url(`write/${addresses[0]}/${encodeURIComponent(stream)}`)}`, type,
				...(sent ? [`-H ${quote(`Idempotency-Key: ${sent}`)}`] : []), `-d ${quote(text)}`]
			: [`curl ${url("write-batch")}`, type, `-d ${quote(batch(addresses, stream, text, sent))}`]
		).join(" \\\n  ");
	}
}

/** Reports whether a stream id can be a part of a path. Browsers and proxies resolve dots. */
const inPath = (stream) => !/^\.{1,2}$/.test(stream);

const numbered = (text, n) => text.replaceAll("{n}", n);

/** Says why a write was refused. */
function reason(code, message) {
	switch (code) {
		case "TIMEOUT":
			return "no room in time, 503 TIMEOUT";
		case "NOT_FOUND":
			return "the channel is gone, 404 NOT_FOUND";
		default:
			return message;
	}
}

/** Returns the body of a write-batch request. The message keeps its text unchanged. */
function batch(addresses, stream, text, key) {
	return `{"channels":${JSON.stringify(addresses)},"messages":[{"streamId":${JSON.stringify(stream)},` +
		`${key ? `"key":${JSON.stringify(key)},` : ""}"body":${text}}]}`;
}

/** Quotes a text for a shell. */
const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
