// Requests to the chat's backend, and messages that are on their way to it.

/** Sends a request to the backend. If the backend refuses it, throws an error with the status. */
export async function ask(what, body, options = {}) {
	const response = await fetch(`/api/${what}`, {
		method: "POST",
		headers: { "Content-Type": "application/json" },
		body: JSON.stringify(body),
		...options,
	});
	if (!response.ok) {
		throw Object.assign(new Error(`the backend replied with status ${response.status}`), { status: response.status });
	}
	return response.json();
}

/** Waits for a number of milliseconds, or until the browser is online again. */
export function pause(time) {
	return new Promise((resolve) => {
		const timer = setTimeout(done, time);
		addEventListener("online", done);
		function done() {
			clearTimeout(timer);
			removeEventListener("online", done);
			resolve();
		}
	});
}

/**
 * Messages on their way. It sends one after the other, and repeats each until the backend has it, however long that
 * takes. Messages survive a reload of the page. The backend recognizes a repeated message by its id.
 */
export class Outbox {
	#messages = JSON.parse(sessionStorage.getItem("outbox") ?? "[]");
	#send;
	#changed;
	#refused;
	#running = false;

	/**
	 * @param send sends a message
	 * @param changed is called with the messages that are left
	 * @param refused is called with a message that will never be sent
	 */
	constructor(send, changed, refused) {
		this.#send = send;
		this.#changed = changed;
		this.#refused = refused;
	}

	/** Sends a message, and returns its id. */
	add(room, text) {
		const id = crypto.randomUUID();
		this.again([{ id, room, text }]);
		return id;
	}

	/** Sends messages, or sends them again. */
	again(messages) {
		this.#messages.push(...messages);
		this.#save();
		this.run();
	}

	async run() {
		this.#changed(this.#messages);
		if (this.#running) {
			return;
		}
		this.#running = true;
		for (let wait = 250; this.#messages.length > 0; ) {
			const message = this.#messages[0];
			try {
				await this.#send(message);
			} catch (error) {
				if (error.status !== 400) {
					await pause(wait * (0.5 + Math.random()));
					wait = Math.min(wait * 2, 5000);
					continue;
				}
				this.#refused(message);
			}
			this.#messages.shift();
			this.#save();
			this.#changed(this.#messages);
			wait = 250;
		}
		this.#running = false;
	}

	#save() {
		sessionStorage.setItem("outbox", JSON.stringify(this.#messages));
	}
}
