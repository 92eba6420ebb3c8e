// What a channel is doing: in words, and as a picture of its buffer.

import { ago, count, node, plural, say, span, svg } from "./page.js";
import { timeOf } from "./site.js";

/** Says in words what a channel is doing. Returns the text, and its state if somebody should look at it. */
export function words(channel, clock) {
	const { connected, pending, inFlight, heldProducers, lastRead, expires } = channel;
	const left = expires && timeOf(expires) - clock.now();
	const ends = left > 1000 ? `expires in ${span(left)}` : "expires now";
	const parts = [];
	let state = "";
	if (connected) {
		parts.push("read now");
		state = "good";
	} else {
		parts.push(lastRead ? `reader left ${ago(clock.now() - timeOf(lastRead))}` : "never read", ends);
		state = left < 10_000 ? "warn" : "";
	}
	if (heldProducers) {
		parts.push(`full: ${plural(heldProducers, "producer")} held`);
		state = "warn";
	}
	if (!pending && !inFlight) {
		parts.push("empty");
	} else {
		parts.push(...[pending && `${pending} pending`, inFlight && `${inFlight} in flight`].filter(Boolean));
	}
	return { text: parts.join(", "), state };
}

/** Where the parts of the picture are, in a drawing of 200 by 12. */
const settled = { x: 0, width: 22 };
const flight = { x: 26, width: 80 };
const queue = { x: 110, width: 90 };
const height = 12;

/** Draws a channel's buffer: settled messages have left it, those in flight were sent, those that are pending were not. */
export class Buffer {
	#flying = bar(flight, "flying");
	#pending = bar(queue, "pending");
	#held = node("span", { className: "held" });
	#settled = bar(settled, "settled");
	#drawing = svg("svg", { viewBox: `0 0 200 ${height}`, role: "img" },
		frame(settled), this.#settled, frame(flight), this.#flying, frame(queue), this.#pending);
	element = node("span", { className: "buffer" }, this.#drawing, this.#held);

	show({ pending, inFlight, heldProducers, lastRead }, settings) {
		fill(this.#settled, settled, lastRead ? 1 : 0);
		fill(this.#flying, flight, inFlight / settings.inFlight);
		fill(this.#pending, queue, pending / settings.buffer);
		this.#pending.classList.toggle("full", pending >= settings.buffer);
		this.#drawing.setAttribute("aria-label", `${lastRead ? "" : "none settled, "}${inFlight} of ${settings.inFlight} in flight, ${pending} of ${settings.buffer} pending`);
		say(this.#held, heldProducers ? `+${heldProducers} held` : "");
	}
}

/** Draws the same with what each part means, and how many messages or producers it has. */
export class BufferDetails {
	#parts = {
		settled: ["Settled", "Received by the reader, and no longer held. A channel does not count them: the number is the server’s, since it started."],
		flying: ["In flight", "Sent, and kept until the reader is known to have them."],
		pending: ["Pending", "Not sent yet."],
		held: ["Held producers", "Writes that wait until there is room."],
	};
	#shown = {};
	element = node("ol", { className: "stages" }, ...Object.entries(this.#parts).map(([name, [title, about]]) => {
		const rect = svg("rect", { class: name, x: 0, y: 0, width: 0, height: 8 });
		const number = node("b");
		this.#shown[name] = { rect, number };
		return node("li", {}, svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, rect),
			node("span", {}, `${title} `, number), node("small", {}, about));
	}));

	/** A channel does not count what has left it. The server counts that for all channels together. */
	show({ pending, inFlight, heldProducers, lastRead }, { settings, server }) {
		this.#part("settled", lastRead ? 1 : 0, lastRead ? `${count(server.settled)} on this server` : "none yet");
		this.#part("flying", inFlight / settings.inFlight, `${count(inFlight)} of ${count(settings.inFlight)}`);
		this.#part("pending", pending / settings.buffer, `${count(pending)} of ${count(settings.buffer)}`);
		this.#part("held", heldProducers ? 1 : 0, count(heldProducers));
		this.#shown.pending.rect.classList.toggle("full", pending >= settings.buffer);
	}

	#part(name, share, text) {
		const { rect, number } = this.#shown[name];
		fill(rect, { width: 100 }, share);
		say(number, text);
	}
}

function bar({ x }, name) {
	return svg("rect", { class: name, x, y: 0, width: 0, height });
}

function frame({ x, width }) {
	return svg("rect", { class: "frame", x: x + 0.5, y: 0.5, width: width - 1, height: height - 1 });
}

/** Fills a part by a share. Even a single message is seen. */
function fill(rect, { width }, share) {
	rect.setAttribute("width", share > 0 ? Math.max(2, Math.min(1, share) * width) : 0);
}
