// The ways to read a channel, as plainly as browsers allow. Each function reads once, from the request to the end of the
// reply. It returns in words how the read ended. If the server refuses the read, it throws a Refusal, and if the server does
// not answer, an Unreachable. If the connection breaks, it throws another error.

import { reach } from "./site.js";

/** A reply that is not a stream of messages. */
export class Refusal extends Error {
	constructor(status, code) {
		super(`${status} ${code}`);
		this.status = status;
	}
}

export const transports = {
	ndjson: {
		name: "NDJSON",
		about: "A reply that goes on: one line of JSON for each message. Ends after a while, and is asked for again.",
		read: (request) => stream(request, "application/x-ndjson", lines),
	},
	sse: {
		name: "Server-sent events",
		about: "What EventSource reads. Always follows cursors, and takes over from another reader.",
		always: "follows cursors",
		read: (request) => stream(request, "text/event-stream", events),
	},
	websocket: {
		name: "WebSocket",
		about: "One text message for each event. Following cursors, this page acknowledges what it gets.",
		read: socket,
	},
	poll: {
		name: "Long polling",
		about: "A short reply with what there is, as soon as there is anything. Always follows cursors.",
		always: "follows cursors",
		query: "poll=20s",
		read: (request) => stream(request, "application/x-ndjson", lines),
	},
};

/**
 * Reads a reply with fetch. It calls opened(resume) when the read begins, and message(json) for each message.
 * @param request has url, opened, message, and a signal that ends the read
 */
async function stream({ url, opened, message, signal }, accept, parse) {
	const response = await reach(url, { headers: { Accept: accept }, cache: "no-store", signal });
	if (!response.ok) {
		const refusal = await response.json().catch(() => ({}));
		throw new Refusal(response.status, refusal.code ?? response.statusText);
	}
	opened(response.headers.get("Megaphone-Resume") ?? "");
	const take = parse(message);
	const decoder = new TextDecoder();
	const reader = response.body.getReader();
	for (let rest = ""; ; ) {
		const { done, value } = await reader.read().catch((error) => {
			throw signal.aborted ? error : new Error("the connection broke");
		});
		if (done) {
			return "ended cleanly";
		}
		const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
		rest = parts.pop();
		parts.forEach(take);
	}
}

/** NDJSON: each line is a message. */
function lines(message) {
	return (line) => message(line);
}

/** Server-sent events: the server writes one `data:` line for each message. The message has the event id too. */
function events(message) {
	return (line) => line.startsWith("data:") && message(line.slice(5));
}

/** How a read ended, if the server says that another reader has the channel now. */
export const takenOver = "another reader has taken over";

/** What close codes mean: each of these ends a read without an error. */
const closings = {
	1000: "ended cleanly",
	1001: "the server goes away, or has a new configuration",
	4400: "the server did not understand this page",
	4409: takenOver,
};

function socket({ url, opened, message, signal, acknowledges }) {
	return new Promise((resolve, reject) => {
		const address = new URL(url, location);
		address.protocol = address.protocol.replace("http", "ws");
		const socket = new WebSocket(address);
		let open = false;
		const abort = () => socket.close();
		signal.addEventListener("abort", abort);
		socket.onopen = () => {
			open = true;
			opened("");
		};
		socket.onmessage = ({ data }) => {
			const eid = message(data);
			if (acknowledges) {
				socket.send(JSON.stringify({ ack: eid }));
			}
		};
		socket.onclose = ({ code }) => {
			signal.removeEventListener("abort", abort);
			if (signal.aborted) {
				reject(signal.reason);
			} else if (code === 4404) {
				reject(new Refusal(404, "NOT_FOUND"));
			} else if (closings[code]) {
				resolve(closings[code]);
			} else {
				// Browsers hide from scripts the status with which a server refuses an upgrade.
				reject(new Error(open ? "the connection broke" : "no connection: refused, perhaps because another reader is there, or the server does not answer"));
			}
		};
	});
}
