// A card that reads a channel: it reads again and again, and shows what arrives.

import { figures, node, say, shortDuration } from "./page.js";
import { timeOf, Unreachable } from "./site.js";
import { Refusal, takenOver, transports } from "./transports.js";

/** How many events a card shows. How many event ids and latencies it remembers. */
const shown = 200;
const remembered = 2000;

/** The least time in milliseconds from the start of a read without a message to the start of the next read. */
const shortest = 1000;

/** After so many milliseconds a read is not refused any more. The server takes a second to refuse. */
const refusalTime = 1500;

/** After how many reads in a row that end at once, without a message, a card gives up: another page reads the channel. */
const patience = 3;

export class Reader {
	#kind;
	#transport;
	#root;
	#monitor;
	#channel;
	#rivals;
	#cursor = "";
	#seen = new Set();
	#latencies = [];
	#counts = {};
	#abort;
	/** When the present read was asked for, and how many reads in a row ended at once. */
	#began = 0;
	#early = 0;
	/** The last poll was not refused. */
	#polls = false;

	/**
	 * @param kind a key of transports
	 * @param monitor knows the server's time and settings
	 * @param rivals returns the other cards that read a channel
	 */
	constructor(kind, monitor, rivals) {
		this.#kind = kind;
		this.#transport = transports[kind];
		this.#monitor = monitor;
		this.#rivals = () => rivals(this.#channel).filter((reader) => reader !== this);
		this.#root = document.getElementById("reader").content.firstElementChild.cloneNode(true);
		const { name, about, always } = this.#transport;
		this.#root.setAttribute("aria-label", name);
		this.#find("h4").textContent = name;
		this.#find(".about").textContent = about;
		this.#find(".events").setAttribute("aria-label", `Events by ${name}, newest first`);
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

	get channel() {
		return this.#channel;
	}

	get name() {
		return this.#transport.name;
	}

	/** When the present read was asked for, or 0 if there is none. */
	get since() {
		return this.#abort ? this.#began : 0;
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

	/** Reads until stop is called, or the channel is gone or another reader's. */
	async start() {
		if (this.#abort || !this.#channel) {
			return;
		}
		const { signal } = (this.#abort = new AbortController());
		this.#early = 0;
		this.#polls = false;
		this.#label("Stop");
		let verdict;
		while (!signal.aborted && !verdict) {
			verdict = await this.#read(signal);
		}
		this.#abort = undefined;
		this.#label("Read");
		this.#status(verdict?.state, verdict?.text ?? "not reading");
	}

	/** Reads once. Returns why there should be no further read, if so. */
	async #read(signal) {
		const began = (this.#began = performance.now());
		const { messages } = this.#counts;
		if (!(this.#kind === "poll" && this.#polls)) {
			this.#status("wait", "connecting");
		}
		// While a poll waits, it has no reply yet. A refusal would have come by then.
		const accepted = setTimeout(() => this.#kind === "poll" && !signal.aborted && this.#status("open", "polling"), refusalTime);
		try {
			const how = await this.#transport.read({
				url: this.#url(),
				opened: (resume) => !signal.aborted && this.#opened(resume),
				message: (text) => signal.aborted || this.#message(text),
				acknowledges: this.#follows,
				signal,
			});
			clearTimeout(accepted);
			this.#polls = true;
			return signal.aborted ? undefined : await this.#ended(how, began, this.#counts.messages > messages, signal);
		} catch (error) {
			clearTimeout(accepted);
			this.#polls = false;
			return signal.aborted ? undefined : await this.#failed(error, signal);
		}
	}

	/** Decides what to do after a read that was not refused. */
	async #ended(how, began, brought, signal) {
		const took = performance.now() - began;
		const rival = this.#rivals().find(({ since }) => since > (how === takenOver ? 0 : began));
		if (rival) {
			this.#note(`${rival.name} has taken over. A channel has one reader at a time.`, "warn");
			return { state: "warn", text: `taken over by ${rival.name}` };
		}
		if (this.#kind !== "poll" || took > 15000) {
			this.#note(`The read ${how === "ended cleanly" ? how : `ended: ${how}`}, after ${shortDuration(took)}.`);
		}
		if (how === takenOver) {
			return { state: "warn", text: "taken over by another client" };
		}
		this.#early = brought || took > shortest ? 0 : this.#early + 1;
		if (this.#early >= patience) {
			this.#note("Each read ends at once. Probably another client reads this channel and takes over, so this card stops.", "warn");
			return { state: "warn", text: "another client reads" };
		}
		if (!brought && took < shortest) {
			this.#status("wait", "ended, reads again");
			await pause(shortest - took, signal);
		}
		return undefined;
	}

	/** Decides what to do after a read that was refused, or failed. */
	async #failed(error, signal) {
		this.#began = 0;
		if (error instanceof Unreachable) {
			this.#note("The server does not answer. Messages that it has kept come when it does.", "bad");
			this.#status("bad", "no answer, tries again");
		} else if (error.status === 404) {
			this.#note("Refused: 404 NOT_FOUND. The channel has expired or was deleted.", "bad");
			return { state: "bad", text: "channel is gone" };
		} else if (error.status === 409) {
			const reading = this.#rivals().find(({ since }) => since);
			this.#note(`Refused: ${error.message}. ${reading?.name ?? "Another client"} reads the channel.`, "warn");
			this.#status("warn", "refused: busy, tries again");
		} else {
			this.#note(`${error instanceof Refusal ? "Refused" : "Fault"}: ${error.message}.`, "bad");
			this.#status("bad", "broken, tries again");
		}
		await pause(1500, signal);
		return undefined;
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
			this.#note("Gap: messages after the cursor may be missing.", "warn");
		}
		this.#figures();
	}

	/** Shows a message, and returns its event id. */
	#message(text) {
		const { clock } = this.#monitor;
		const { sid, eid, ts, body } = JSON.parse(text);
		clock.saw(timeOf(ts));
		const latency = clock.now() - timeOf(ts);
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
		const last = this.#find(".events").firstElementChild;
		if (last?.classList.contains("note") && last.textContent.startsWith(text)) { // the same again, as while the server is away
			last.dataset.times = Number(last.dataset.times ?? 1) + 1;
			say(last, `${text} (${last.dataset.times} times)`, state);
			return;
		}
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
		this.#find(".empty").hidden = true;
	}

	#clear() {
		this.#counts = { reads: 0, messages: 0, repeats: 0, gaps: 0, resume: "" };
		this.#seen.clear();
		this.#latencies = [];
		this.#find(".events").replaceChildren();
		this.#find(".empty").hidden = false;
		say(this.#find(".empty"), this.#channel ? "Nothing yet. Read, then write a message." : "Nothing yet. There is no channel to read.");
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

	/** Says what the card's button does. */
	#label(text) {
		say(this.#find(".toggle"), text);
		this.#find(".toggle").classList.toggle("primary", text === "Read");
	}

	#status(state, text) {
		say(this.#find(".status"), text, state);
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
