// Calls the endpoints of the site that serves this page. URLs are relative to the page's URL, because the site may be
// below some path.

/** A request that got no reply. Whether the server has done what it asks is unknown. */
export class Unreachable extends Error {
	constructor() {
		super("the server does not answer");
	}
}

/** How long a reply of the page's own data may take, in milliseconds. */
const patience = 5000;

/** Sends a request and returns the JSON of its reply. Throws an error with the server's words if it is refused. */
export async function call(path, method = "GET", body, headers = {}) {
	const response = await reach(`../${path}`, {
		method,
		headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
		body,
		cache: "no-store",
		signal: method === "GET" ? AbortSignal.timeout(patience) : undefined,
	});
	const reply = await response.json().catch(() => undefined);
	if (!response.ok || reply === undefined) {
		const error = new Error(reply?.code ? `${response.status} ${reply.code}: ${reply.message}` : `status ${response.status}`);
		error.status = response.status;
		error.code = reply?.code;
		throw error;
	}
	return reply;
}

/** Fetches, and throws an Unreachable if there is no reply. */
export async function reach(url, options) {
	try {
		return await fetch(url, options);
	} catch (error) {
		throw error.name === "AbortError" ? error : new Unreachable();
	}
}

/** Knows the server's time. It learns the time from replies and messages. */
export class Clock {
	#offset = 0;
	#best = Infinity;

	/** Returns the server's time in milliseconds since 1970. */
	now = () => local() + this.#offset;

	/** Learns from the time of a message that has just arrived, since the server did not send it in the future. */
	saw(time) {
		this.#offset = Math.max(this.#offset, time - local());
	}

	/** Fetches JSON that has `now`, and learns from that. The quickest of the last replies is the most exact. */
	async fetch(path) {
		const sent = local();
		const reply = await call(path);
		const received = local();
		this.#best *= 1.1; // an old reply counts less, because clocks drift
		if (received - sent < this.#best) {
			this.#best = received - sent;
			this.#offset = timeOf(reply.now) - (sent + received) / 2;
		}
		return reply;
	}
}

const local = () => performance.timeOrigin + performance.now();

/** Converts a timestamp of the server to milliseconds. It has nanoseconds, but Date.parse drops fractions of a millisecond. */
export function timeOf(timestamp) {
	const digits = /\.\d{3}(\d+)/.exec(timestamp)?.[1];
	return Date.parse(timestamp) + (digits ? Number(`0.${digits}`) : 0);
}
