// The view of all channels: search, sort, what each is doing, and which are this page's own.

import { Buffer, BufferDetails, words } from "./buffer.js";
import { ago, copyButton, count, figures, node, plural, Rows, say, span } from "./page.js";
import { timeOf } from "./site.js";

const $ = (id) => document.getElementById(id);

/** What to sort by. Numbers begin with the largest. */
const orders = {
	id: { of: ({ id }) => id, down: false },
	state: { of: ({ connected, heldProducers }) => heldProducers * 2 + (connected ? 1 : 0), down: true },
	pending: { of: ({ pending }) => pending, down: true },
	inFlight: { of: ({ inFlight }) => inFlight, down: true },
	held: { of: ({ heldProducers }) => heldProducers, down: true },
	created: { of: ({ created }) => timeOf(created), down: true },
};

export class Channels {
	#monitor;
	#bench;
	#rows;
	#order = "created";
	#down = true;

	/** @param bench knows the page's own channels */
	constructor(monitor, bench) {
		this.#monitor = monitor;
		this.#bench = bench;
		this.#rows = new Rows($("list"), ({ id }) => id, () => new Row(monitor, bench));
		monitor.queryBy(() => ({ only: $("only").value, search: this.#name }));
		monitor.onChange(() => this.#show());
		bench.onChange(() => this.#show());
		$("search").oninput = () => {
			this.#show();
			clearTimeout(this.#asking);
			this.#asking = setTimeout(() => this.#name && monitor.ask(), 250);
		};
		$("only").onchange = () => monitor.ask();
		$("mine").onchange = () => this.#show();
		for (const button of document.querySelectorAll("#view-channels th button")) {
			button.onclick = () => this.#sortBy(button.value);
		}
	}

	#asking;

	/** What may be an id or an address, so that the server can look for it among all of its channels. */
	get #name() {
		const text = $("search").value.trim();
		return /^[\w.-]{8,}$/.test(text) ? text : "";
	}

	#sortBy(order) {
		this.#down = order === this.#order ? !this.#down : orders[order].down;
		this.#order = order;
		this.#show();
	}

	#show() {
		const { site, states } = this.#monitor;
		const server = site?.server;
		if (!server) {
			return;
		}
		$("unlisted").hidden = Boolean(server.list);
		const listed = new Map((server.list ?? []).map((channel) => [channel.id, channel]));
		// The page's own channels, and the one that was searched for, may be beyond the end of the list.
		const found = states.get(this.#name);
		for (const channel of [found, ...this.#bench.channels.map(({ state }) => state)]) {
			if (channel && (channel === found || !$("only").value)) {
				listed.set(channel.id, channel);
			}
		}
		const text = $("search").value.trim().toLowerCase();
		const shown = [...listed.values()].filter((channel) =>
			(!$("mine").checked || this.#bench.owner(channel.id)) &&
			(!text || channel.id.includes(text) || channel === found || words(channel, this.#monitor.clock).text.includes(text)));
		this.#sort(shown);
		this.#rows.show(shown);
		$("list").closest(".table").hidden = !shown.length;
		say($("listed"), this.#summary(server, listed.size, shown.length));
		say($("no-channels"), shown.length || !server.list ? "" : this.#nothing(server));
	}

	#sort(channels) {
		const { of } = orders[this.#order];
		const sign = this.#down ? -1 : 1;
		channels.sort((a, b) => (of(a) < of(b) ? -sign : of(a) > of(b) ? sign : a.id < b.id ? -1 : 1));
		for (const button of document.querySelectorAll("#view-channels th button")) {
			button.closest("th").setAttribute("aria-sort",
				button.value !== this.#order ? "none" : this.#down ? "descending" : "ascending");
		}
	}

	#summary({ channels, more }, listed, shown) {
		const all = more ? `${count(listed)} of ${plural(channels, "channel")} listed` : plural(listed, "channel");
		return shown < listed ? `${count(shown)} shown, ${all}` : shown ? all : "";
	}

	#nothing({ channels, more }) {
		if (!channels) {
			return "There is no channel. A backend makes one with POST /create, and so does “Try it”.";
		}
		if ($("mine").checked && !this.#bench.channels.length) {
			return "This page has made no channel. “Try it” makes some.";
		}
		return more && $("search").value
			? "No listed channel is like that. To find one beyond the list, search for its whole id or address."
			: "No channel is like that.";
	}
}

/** A channel's row, and below it its details. */
class Row {
	#monitor;
	#bench;
	#buffer = new Buffer();
	#toggle = node("button", { type: "button", className: "open" });
	#mine = node("span", { className: "tag" }, "mine");
	#state = node("span", { className: "words" });
	#numbers = ["pending", "inFlight", "heldProducers"].map((name) => [name, node("td", { className: "number" })]);
	#age = node("td", { className: "number" });
	#stages = new BufferDetails();
	#figures = node("dl", { className: "figures" });
	#actions = node("div", { className: "buttons" });
	#details;
	#channel;
	elements;

	constructor(monitor, bench) {
		this.#monitor = monitor;
		this.#bench = bench;
		const cell = (name, ...children) => node("td", { className: name }, ...children);
		const row = node("tr", {}, node("th", { scope: "row" }, this.#toggle, " ", this.#mine),
			cell("", this.#state), cell("picture", this.#buffer.element), ...this.#numbers.map(([, td]) => td), this.#age);
		this.#details = node("tr", { className: "details", hidden: true },
			node("td", { colSpan: 7 }, this.#stages.element, this.#figures, this.#actions));
		this.elements = [row, this.#details];
		this.#toggle.setAttribute("aria-expanded", "false");
		this.#toggle.onclick = () => {
			this.#details.hidden = !this.#details.hidden;
			this.#toggle.setAttribute("aria-expanded", String(!this.#details.hidden));
		};
		this.#actions.append(copyButton("Copy id", "name for operators, not an address", () => this.#channel.id));
	}

	update(channel) {
		const { clock, site } = this.#monitor;
		this.#channel = channel;
		say(this.#toggle, channel.id);
		const own = this.#bench.owner(channel.id);
		this.#mine.hidden = !own;
		const { text, state } = words(channel, clock);
		say(this.#state, text, state);
		this.#buffer.show(channel, site.settings);
		this.#numbers.forEach(([name, td]) => say(td, count(channel[name]), name === "heldProducers" && channel[name] ? "warn" : ""));
		const since = (time) => clock.now() - timeOf(time);
		say(this.#age, span(since(channel.created)));
		this.#stages.show(channel, site);
		figures(this.#figures, {
			"Created": ago(since(channel.created)),
			"Last read": channel.connected ? "now" : channel.lastRead ? ago(since(channel.lastRead)) : "never",
			"Expires": channel.expires ? `in ${span(-since(channel.expires))}` : "not while it is read",
			"Made by": own ? `this page, for ${own.name}` : "another client",
		});
		if (own && this.#actions.childElementCount === 1) {
			this.#actions.append(...own.buttons());
		}
	}
}
