// Keeps account of the messages while there is no connection, or while the page moves to a new configuration.

/** When everything has come, this many milliseconds without news end an account. */
const calm = 1000;

const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

export class Account {
	#tell;
	#open; // the account that runs
	#timer;

	/** @param tell shows a sentence: what happens, or what has happened */
	constructor(tell) {
		this.#tell = tell;
	}

	/**
	 * Opens an account, unless one runs already.
	 * @param cause "away": there is no connection; "reload": the server has a new configuration
	 * @param waiting the ids of this page's messages that are on their way
	 */
	begin(cause, waiting) {
		if (this.#open) {
			return;
		}
		this.#open = { cause, begun: performance.now(), date: Date.now(), back: undefined, mine: new Set(waiting), owed: new Set(waiting), others: 0, twice: 0, missed: 0 };
		this.#tell(cause === "away"
			? "There is no connection to the server. What you and others write now is held."
			: "Caddy takes a new configuration. The old one ends this connection within 20 seconds. Go on writing.");
	}

	/** There is a connection again: to the new configuration, after a reload. */
	connected() {
		if (this.#open) {
			this.#open.back ??= performance.now();
			this.#settle();
		}
	}

	/** The connection that came was lost again. */
	lost() {
		if (this.#open) {
			this.#open.back = undefined;
			this.#open.cause = "away";
			clearTimeout(this.#timer);
		}
	}

	/** This page has a message to send. */
	held(id) {
		this.#open?.mine.add(id);
		this.#open?.owed.add(id);
	}

	/** The backend will never take a message. */
	refused(id) {
		this.#open?.mine.delete(id);
		this.#open?.owed.delete(id);
		this.#settle();
	}

	/** A message has come, of this page or another one; fresh says that it was not there already. */
	came({ id, at }, mine, fresh) {
		const account = this.#open;
		if (!account) {
			return;
		}
		account.owed.delete(id);
		account.twice += fresh ? 0 : 1;
		account.others += fresh && !mine && Date.parse(at) >= account.date ? 1 : 0; // the history may come too
		this.#settle();
	}

	/** This page has missed messages of topics. */
	missed(n) {
		if (this.#open) {
			this.#open.missed += n;
		}
	}

	/** Ends the account without a result: the page shows another room now. */
	cancel() {
		this.#open = undefined;
		clearTimeout(this.#timer);
	}

	/** Ends the account when there is a connection, and all messages of this page have come back. */
	#settle() {
		clearTimeout(this.#timer);
		if (this.#open?.back !== undefined && this.#open.owed.size === 0) {
			this.#timer = setTimeout(() => this.#end(), calm);
		}
	}

	#end() {
		const { cause, begun, back, mine, others, twice, missed } = this.#open;
		this.#open = undefined;
		const time = `${((back - begun) / 1000).toFixed(1)} s`;
		const all = mine.size + others;
		const of = mine.size === 0 ? " of others" : others === 0 ? " of yours" : "";
		const what = all === 0 ? "No messages were held."
			: `${count(all, "message")}${of} ${all === 1 ? "was" : "were"} held${of ? "" : `, ${mine.size} of them yours`}.`;
		const outcome = missed > 0
			? `${count(missed, "message")} did not fit into the channel, so the page reads the history again.`
			: all === 0 ? "" : `All delivered, ${twice > 0 ? `${count(twice, "repeat")} dropped` : "none twice"}.`;
		this.#tell([cause === "away" ? `The server was away for ${time}.` : `The page moved to the new configuration after ${time}.`, what, outcome].join(" ").trim());
	}
}
