// The top of the page: what the server is doing now, and what is wrong with it.

import { Chart } from "./chart.js";
import { count, node, plural, rate, say, shortSize, timeOfDay } from "./page.js";
import { Unreachable } from "./site.js";

const $ = (id) => document.getElementById(id);
const title = document.title;

/** What a server's state has for each tile: value, and in words text, about and whether that is a warning. */
const tiles = [
	{
		name: "Channels",
		value: (s) => s.channels,
		about: (s) => `of ${count(s.maxChannels)}`,
		state: (s) => s.channels >= s.maxChannels * 0.9 && "warn",
		hint: "Channels that exist now",
	},
	{
		name: "Readers",
		value: (s) => s.readers,
		about: (s) => (s.maxReaders ? `of ${count(s.maxReaders)}` : "connected"),
		state: (s) => s.maxReaders && s.readers >= s.maxReaders * 0.9 && "warn",
		hint: "Channels that are being read now",
	},
	{
		name: "Messages in",
		value: (s, before, seconds) => perSecond(s.accepted, before?.accepted, seconds),
		text: rate,
		about: () => "per second",
		hint: "Messages that channels have accepted. A message to three channels counts three times.",
	},
	{
		name: "Messages out",
		value: (s, before, seconds) => perSecond(s.sent, before?.sent, seconds),
		text: rate,
		about: () => "per second",
		hint: "Messages that were sent to readers, repeats included",
	},
	{
		name: "Held producers",
		value: (s) => s.heldProducers,
		about: (s) => (s.heldProducers ? "wait for room" : "none waits"),
		state: (s) => s.heldProducers && "warn",
		hint: "Writes that wait for room in a full channel",
	},
	{
		name: "Undelivered",
		value: (s) => s.undelivered,
		about: () => "since the start",
		state: (s, before) => before && s.undelivered > before.undelivered && "warn",
		hint: "Messages whose channel ended before they were received",
	},
	{
		name: "Memory",
		value: (s) => s.usedBytes,
		text: shortSize,
		about: (s) => `of ${shortSize(s.maxMemory)}`,
		state: (s) => s.usedBytes >= s.maxMemory * 0.9 && "warn",
		hint: "What all messages take",
	},
];

function perSecond(now, before, seconds) {
	// The counters begin anew when the process does.
	return before === undefined || now < before || !(seconds > 0) ? undefined : (now - before) / seconds;
}

/** What the codes of the server's health mean, and how bad that is. */
const healths = {
	OK: ["good", "Healthy"],
	DRAINING: ["warn", "Draining"],
	STARTING: ["warn", "Starting"],
	STORAGE_UNAVAILABLE: ["bad", "Storage unavailable"],
};

export class Overview {
	#monitor;
	#tiles;
	#before;

	constructor(monitor) {
		this.#monitor = monitor;
		this.#tiles = tiles.map((tile) => {
			const value = node("b", {}, "–");
			const about = node("small");
			const chart = new Chart(tile.name, tile.text ?? count);
			const element = node("div", { className: "tile", title: tile.hint },
				node("h3", {}, tile.name), node("p", {}, value, " ", about), chart.element);
			return { ...tile, element, chart, shows: value, adds: about };
		});
		$("tiles").append(...this.#tiles.map(({ element }) => element));
		monitor.onChange(() => this.#show());
	}

	#show() {
		const { site, failure } = this.#monitor;
		this.#banner();
		document.body.toggleAttribute("data-stale", Boolean(failure));
		if (!site) {
			return;
		}
		$("overview").hidden = !site.server;
		$("unmanaged").hidden = Boolean(site.server);
		say($("agent"), `Agent ${site.agent}`);
		if (failure) {
			this.#tiles.forEach(({ chart }) => chart.push(Date.now(), undefined));
			this.#before = undefined;
		} else if (site.server) {
			this.#fill(site);
		}
	}

	#fill({ server, now }) {
		const time = Date.parse(now);
		const before = this.#before;
		const seconds = (time - before?.time) / 1000;
		if (seconds < 1) {
			return; // the bench asks more often, but rates of so short a time tell little
		}
		for (const tile of this.#tiles) {
			const value = tile.value(server, before?.server, seconds);
			say(tile.shows, value === undefined ? "–" : (tile.text ?? count)(value), tile.state?.(server, before?.server) || "");
			say(tile.adds, tile.about(server));
			tile.chart.push(Date.now(), value);
		}
		this.#before = { server, time };
	}

	/** Shows the health, and above all what keeps the server from serving. */
	#banner() {
		const { site, failure } = this.#monitor;
		const [state, name] = failure ? ["bad", "No answer"] : healths[site.health] ?? ["bad", site.health];
		say($("health"), name, state);
		say($("updated"), failure ? `last seen ${site ? timeOfDay(new Date(site.now)) : "never"}` : `updated ${timeOfDay(new Date())}`);
		const text = failure ? unreachable(failure, site) : unhealthy(site);
		say($("banner"), text, state);
		$("banner").hidden = !text;
		document.title = state === "good" ? title : `${name}: ${title}`;
	}
}

function unreachable({ error, since }, site) {
	const what = error instanceof Unreachable
		? `The server has not answered since ${timeOfDay(since)}.`
		: `The server has refused to tell its state since ${timeOfDay(since)}: ${error.message}.`;
	const seen = site ? ` What you see is of ${timeOfDay(new Date(site.now))}.` : "";
	return `${what}${seen} This page asks again every 2 seconds.`;
}

function unhealthy({ health, server }) {
	switch (health) {
		case "OK":
			return "";
		case "DRAINING":
			return drained(server?.drain);
		case "STARTING":
			return "The server is starting: it reads its journal. Until it is done, it serves no channel.";
		case "STORAGE_UNAVAILABLE":
			return "The server’s storage takes no writes: producers get 503. The server’s log has the reason.";
		default:
			return `The server does not want new clients: ${health}.`;
	}
}

function drained(drain) {
	if (!drain) {
		return "The server is being drained, or shuts down: it makes no new channels.";
	}
	const { channels, remaining } = drain;
	return remaining
		? `The server is being drained: ${plural(remaining, "channel")} of ${count(channels)} left. It makes no new channels.`
		: "The server is drained: it makes no new channels, and may be stopped.";
}
