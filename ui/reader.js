// A card that reads a channel: it reads again and again, and shows what arrives.

import { figures, node, shortDuration } from "./page.js";
import { timeOf } from "./site.js";
import { Refusal, transports } from "./transports.js";

/** How many events a card shows. How many event ids and latencies it remembers. */
const shown = 200;
const remembered = 2000;

/** The least time in milliseconds from the start of a read without a message to the start of the next read. */
const shortest = 1000;

export class Reader {
	#kind;
	#transport;
	#root;
	#clock;
	#channel;
	#cursor = "";
	#seen = new Set();
	#latencies = [];
	#counts = {};
	#abort;

	/**
	 * @param kind a key of transports
	 * @param clock knows the server's time
	 */
	constructor(kind, clock) {
		this.#kind = kind;
		this.#transport = transports[kind];
		this.#clock = clock;
		this.#root = document.getElementById("reader").content.firstElementChild.cloneNode(true);
		const { name, about, always } = this.#transport;
		this.#root.setAttribute("aria-label", name);
		this.#find("h3").textContent = name;
		this.#find(".about").textContent = about;
		if (always) {
			this.#find(".follow").replaceChildren(`always ${always}`);
		}
		this.#find(".toggle").onclick = () => (this.#abort ? this.stop() : this.start());
		this.#find(".clear").onclick = () => this.#clear();
		this.#clear();
		this.use(undefined);
	}

	get element() {
		return this.#root;
	}

	/** Reads this channel from now on. */
	use(channel) {
		this.stop();
		this.#channel = channel;
		this.#cursor = "";
		this.#clear();
		this.#find(".toggle").disabled = !channel;
		this.#status("", channel ? "not reading" : "no channel");
	}

	stop() {
		this.#abort?.abort();
	}

	/** Reads until stop is called or the channel is gone. */
	async start() {
		if (this.#abort || !this.#channel) {
			return;
		}
		const { signal } = (this.#abort = new AbortController());
		this.#find(".toggle").textContent = "Stop";
		while (!signal.aborted) {
			const began = performance.now();
			const { messages } = this.#counts;
			// While a poll waits, it has no reply yet.
			this.#status(this.#kind === "poll" ? "open" : "wait", this.#kind === "poll" ? "polling" : "connecting");
			try {
				const how = await this.#transport.read({
					url: this.#url(),
					opened: (resume) => !signal.aborted && this.#opened(resume),
					message: (text) => signal.aborted || this.#message(text),
					acknowledges: this.#follows,
					signal,
				});
				if (this.#kind !== "poll" || performance.now() - began > 15000) {
					this.#note(`The read ${how === "ended cleanly" ? how : `ended: ${how}`}, after ${shortDuration(performance.now() - began)}.`);
				}
				// Readers of one channel take over from each other. The pause slows that to about once a second, so that
				// people can see it.
				if (this.#counts.messages === messages) {
					await pause(shortest - (performance.now() - began), signal);
				}
			} catch (error) {
				if (signal.aborted) {
					break;
				}
				this.#note(`${error instanceof Refusal ? "Refused" : "Fault"}: ${error.message}`, "bad");
				if (error.status === 404) {
					this.#finish("bad", "channel is gone");
					return;
				}
				this.#status("bad", error.status === 409 ? "busy" : "broken");
				await pause(1500, signal);
			}
		}
		this.#finish("", "not reading");
	}

	get #follows() {
		return this.#find(".follow input")?.checked ?? true;
	}

	#url() {
		const query = [];
		if (this.#transport.query) {
			query.push(this.#transport.query);
		}
		// A poll without a cursor gets the messages of the last poll again. An empty cursor makes it take over.
		if (this.#follows && (this.#kind !== "poll" || this.#cursor)) {
			query.push(`after=${encodeURIComponent(this.#cursor)}`);
		}
		return `../read/${encodeURIComponent(this.#channel.consumerAddress)}${query.length ? `?${query.join("&")}` : ""}`;
	}

	#opened(resume) {
		this.#counts.reads++;
		this.#counts.resume = resume;
		this.#status("open", this.#kind === "poll" ? "polling" : "reading");
		if (resume === "gap") {
			this.#counts.gaps++;
			this.#note("Gap: messages after the cursor may have been let go.", "warn");
		}
		this.#figures();
	}

	/** Shows a message, and returns its event id. */
	#message(text) {
		const { sid, eid, ts, body } = JSON.parse(text);
		this.#clock.saw(timeOf(ts));
		const latency = this.#clock.now() - timeOf(ts);
		const again = this.#seen.has(eid);
		this.#cursor = eid;
		this.#counts.messages++;
		if (again) {
			this.#counts.repeats++;
		} else {
			this.#seen.add(eid);
			if (this.#seen.size > remembered) {
				this.#seen.delete(this.#seen.values().next().value);
			}
			this.#latencies.push(latency);
			this.#latencies = this.#latencies.slice(-remembered);
		}
		const meta = node("div", { className: "meta", title: `${eid}\n${ts}` },
			node("span", {}, `…${eid.slice(-8)}`), node("span", {}, sid), node("span", {}, shortDuration(latency)));
		const item = node("li", {}, meta, node("div", {}, JSON.stringify(body)));
		if (again) {
			meta.append(node("strong", { className: "again" }, "again"));
		}
		this.#add(item);
		this.#figures();
		return eid;
	}

	#note(text, state = "") {
		const item = node("li", { className: "note" }, text);
		item.dataset.state = state;
		this.#add(item);
	}

	#add(item) {
		const list = this.#find(".events");
		list.prepend(item);
		while (list.children.length > shown) {
			list.lastElementChild.remove();
		}
	}

	#clear() {
		this.#counts = { reads: 0, messages: 0, repeats: 0, gaps: 0, resume: "" };
		this.#seen.clear();
		this.#latencies = [];
		this.#find(".events").replaceChildren();
		this.#figures();
	}

	#figures() {
		const { reads, messages, repeats, gaps, resume } = this.#counts;
		const sorted = this.#latencies.toSorted((a, b) => a - b);
		figures(this.#find(".figures"), {
			Reads: reads,
			Messages: messages,
			"Sent again": { value: repeats, state: repeats && "warn" },
			Gaps: { value: gaps, state: gaps && "bad" },
			Resumed: this.#kind === "websocket" ? "not told" : resume || "–",
			"Latency, median": sorted.length ? shortDuration(sorted[sorted.length >> 1]) : "–",
			"Latency, 99 %": sorted.length ? shortDuration(sorted[Math.floor(sorted.length * 0.99)]) : "–",
			Cursor: { value: this.#cursor ? `…${this.#cursor.slice(-8)}` : "none", title: this.#cursor },
		});
	}

	#status(state, text) {
		const status = this.#find(".status");
		if (status.textContent !== text) {
			status.textContent = text;
		}
		status.dataset.state = state;
	}

	#finish(state, text) {
		this.#abort = undefined;
		this.#find(".toggle").textContent = "Read";
		this.#status(state, text);
	}

	#find(selector) {
		return this.#root.querySelector(selector);
	}
}

/** Waits for a number of milliseconds, or until the signal aborts. */
function pause(time, signal) {
	return new Promise((resolve) => {
		const done = () => {
			clearTimeout(timer);
			signal.removeEventListener("abort", done);
			resolve();
		};
		const timer = setTimeout(done, time);
		signal.addEventListener("abort", done);
	});
}
