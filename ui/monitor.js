// Asks the server for its state again and again, and tells the parts of the page.

import { Clock } from "./site.js";

/** How often, in milliseconds. A page in the background asks less often. */
const interval = 2000;
const hiddenInterval = 10_000;

export class Monitor {
	clock = new Clock();
	/** The last state that the server has told, or undefined. */
	site;
	/** While the server cannot be asked: the error, and since when. */
	failure;
	/** The addresses of the page's own channels, and what the server says of each: null if it is gone. */
	mine = [];
	states = new Map();

	#listeners = [];
	#query = () => ({});
	#timer;
	#asking;

	/** Calls a function after each reply, and after each failure. */
	onChange(listener) {
		this.#listeners.push(listener);
	}

	/** Asks for what this function returns: only, and search. */
	queryBy(query) {
		this.#query = query;
	}

	serves(endpoint) {
		return Boolean(this.site?.endpoints.includes(endpoint));
	}

	/** Begins to ask. At first it asks a few times in a row, to learn the server's time. */
	async start() {
		for (let i = 0; i < 3; i++) {
			await this.clock.fetch("ui/state.json").catch(() => undefined);
		}
		await this.ask();
	}

	/** Asks now, and from then on regularly. */
	async ask() {
		if (this.#asking) {
			await this.#asking; // it may have begun before what the caller wants to see
		}
		this.#asking ??= this.#askOnce().finally(() => (this.#asking = undefined));
		await this.#asking;
	}

	async #askOnce() {
		clearTimeout(this.#timer);
		const { only, search } = this.#query();
		const names = this.mine.concat(search || []);
		const query = new URLSearchParams(names.map((name) => ["channel", name]));
		if (only) {
			query.set("only", only);
		}
		try {
			const site = await this.clock.fetch(`ui/state.json${query.size ? `?${query}` : ""}`);
			this.site = site;
			this.failure = undefined;
			this.states = new Map(names.map((name, i) => [name, site.server?.asked?.[i]]));
		} catch (error) {
			this.failure = { error, since: this.failure?.since ?? new Date() };
		}
		this.#listeners.forEach((listener) => listener());
		this.#timer = setTimeout(() => this.ask(), document.hidden ? hiddenInterval : interval);
	}
}
