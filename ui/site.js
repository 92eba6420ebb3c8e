// The site that serves this page, by its endpoints. Addresses are relative to the page's: the site may be served
// below some path.

/** Sends a request and returns the JSON of its reply. Throws an error with the server's words if it is refused. */
export async function call(path, method = "GET", body, headers = {}) {
	const response = await fetch(`../${path}`, {
		method,
		headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
		body,
		cache: "no-store",
	});
	const reply = await response.json().catch(() => ({}));
	if (!response.ok) {
		const error = new Error(reply.code ? `${response.status} ${reply.code}: ${reply.message}` : `status ${response.status}`);
		error.status = response.status;
		throw error;
	}
	return reply;
}

/** Knows the server's time, from replies that tell it. */
export class Clock {
	#offset = 0;
	#best = Infinity;

	/** The server's time in milliseconds since 1970. */
	now = () => local() + this.#offset;

	/** Learns from a message that has just come: it was not sent in the future. */
	saw(time) {
		this.#offset = Math.max(this.#offset, time - local());
	}

	/** Fetches something that has `now`. The quickest of the last replies is the most exact. */
	async fetch(path) {
		const sent = local();
		const reply = await call(path);
		const received = local();
		this.#best *= 1.1; // an old one counts less: clocks drift
		if (received - sent < this.#best) {
			this.#best = received - sent;
			this.#offset = timeOf(reply.now) - (sent + received) / 2;
		}
		return reply;
	}
}

const local = () => performance.timeOrigin + performance.now();

/** A timestamp of the server in milliseconds. It has nanoseconds, and Date.parse knows whole milliseconds only. */
export function timeOf(timestamp) {
	const digits = /\.\d{3}(\d+)/.exec(timestamp)?.[1];
	return Date.parse(timestamp) + (digits ? Number(`0.${digits}`) : 0);
}
