// Shows the page's connection.

import { node } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** How many lines the log has at most. */
const maxLines = 50;

/** The words for each state, and their look. */
const states = {
	idle: ["connecting", "wait"],
	connecting: ["connecting", "wait"],
	open: ["live", "open"],
	waiting: ["connecting again", "wait"],
	gone: ["getting a new channel", "wait"],
	closed: ["closed", "bad"],
};

/** The names of the transports. */
export const names = { websocket: "WebSocket", sse: "server-sent events", ndjson: "NDJSON", poll: "long polling" };

/** Why a server closes a WebSocket, by close code (protocol.md 2.4). */
const closings = {
	1000: "it has lasted its time",
	1001: "the server has a new configuration, or stops",
	1005: "by this page",
	1006: "the connection broke",
	4404: "the channel is gone",
	4409: "another page reads the channel",
};

/** Shows the state of a client's connection, and a log of what happens to it. */
export class Connection {
	#counts = { connections: 0, channels: 0, messages: 0 };
	#client;
	#late = false;
	#connected;

	/** @param connected is called when a connection is open */
	constructor(connected) {
		this.#connected = connected;
		addEventListener("offline", () => this.#network(false));
		addEventListener("online", () => this.#network(true));
	}

	/** A WebSocket class for the client to use. It logs when a connection opens and closes. */
	get WebSocket() {
		const connection = this;
		return class extends WebSocket {
			constructor(url) {
				super(url);
				let open = false;
				this.addEventListener("open", () => (open = true));
				this.addEventListener("close", ({ code }) => open && connection.tell(`WebSocket closed: ${closings[code] ?? `code ${code}`}`));
				this.addEventListener("open", () => connection.#opened());
			}
		};
	}

	/** A fetch for the client to use. It notices when a read begins. */
	get fetch() {
		return async (...request) => {
			const response = await fetch(...request);
			if (response.ok) {
				this.count("connections");
				this.#connected();
			}
			return response;
		};
	}

	/** Says whether messages are on their way for longer than usual. */
	set late(late) {
		this.#late = late;
		this.#show();
	}

	/** Shows this client from now on, instead of another. */
	watch(client) {
		this.#client = client;
		client.on("state", (state) => {
			if (client === this.#client) {
				this.#show();
				if (state === "open" && client.transport !== "websocket") {
					this.tell(`connected by ${names[client.transport]}`);
				}
			}
		});
		client.on("gone", () => this.tell("the channel is gone: another one is created"));
		client.on("gap", () => this.tell("messages may have been missed: the history is read again"));
		client.on("error", (error) => this.fault(error.cause ?? error));
		this.#show();
	}

	/** Counts one of connections, channels or messages. */
	count(what, n = 1) {
		this.#counts[what] += n;
		this.#figures();
	}

	/** Adds a line to the log. */
	tell(text) {
		$("log").prepend(node("li", {}, node("time", {}, clock.format(new Date())), text));
		while ($("log").children.length > maxLines) {
			$("log").lastElementChild.remove();
		}
	}

	/** Logs an error of the backend or the client. Any other error comes from the browser: there is no connection. */
	fault(error) {
		this.tell(error.status || error.code ? error.message : "no connection");
	}

	#network(online) {
		this.tell(online ? "the browser is online" : "the browser is offline");
		this.#show();
	}

	#opened() {
		this.count("connections");
		this.tell(`connected by ${names.websocket}`);
		this.#connected();
	}

	#show() {
		const open = this.#client.state === "open";
		const [text, state] = !navigator.onLine ? ["offline", "bad"] : open && this.#late ? ["sending", "wait"] : states[this.#client.state];
		const element = $("state");
		if (element.textContent !== text) {
			element.textContent = text;
		}
		element.dataset.state = state;
		this.#figures();
	}

	#figures() {
		const { connections, channels, messages } = this.#counts;
		$("figures").replaceChildren(...Object.entries({
			Transport: names[this.#client?.transport] ?? "none yet",
			Connections: connections,
			Channels: channels,
			Messages: messages,
		}).flatMap(([name, value]) => [node("dt", {}, name), node("dd", {}, String(value))]));
	}
}
