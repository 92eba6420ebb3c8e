// Shows the messages of a room, in the order of their numbers.

/** Makes an element. Strings become text, never HTML. */
export const node = (name, properties, ...children) => {
	const element = Object.assign(document.createElement(name), properties);
	element.append(...children);
	return element;
};

/** Messages of one person that are fewer milliseconds apart than this are shown as one group. */
const together = 5 * 60_000;

export class Timeline {
	#list;
	#scroll;
	#user;
	#items = new Map(); // by message number
	#complete = 0;

	constructor(list, scroll, user) {
		this.#list = list;
		this.#scroll = scroll;
		this.#user = user;
	}

	/** The number up to which no message is missing. */
	get complete() {
		return this.#complete;
	}

	get length() {
		return this.#items.size;
	}

	clear() {
		this.#items.clear();
		this.#list.replaceChildren();
		this.#complete = 0;
	}

	/** Adds the messages that it does not have yet. Returns how many it has added. */
	add(messages) {
		const before = this.#items.size;
		const atEnd = this.#scroll.scrollHeight - this.#scroll.scrollTop - this.#scroll.clientHeight < 80;
		for (const message of messages) {
			if (!this.#items.has(message.n)) {
				this.#insert(message);
			}
		}
		this.completeTo(this.#complete);
		if (atEnd || messages.at(-1)?.user === this.#user) {
			this.toEnd();
		}
		return this.#items.size - before;
	}

	/** Notes that no message up to number n is missing. */
	completeTo(n) {
		this.#complete = Math.max(this.#complete, n);
		while (this.#items.has(this.#complete + 1)) {
			this.#complete++;
		}
	}

	toEnd() {
		this.#scroll.scrollTop = this.#scroll.scrollHeight;
	}

	#insert(message) {
		const item = show(message, message.user === this.#user);
		let after = this.#list.lastElementChild;
		while (after && Number(after.dataset.n) > message.n) {
			after = after.previousElementSibling;
		}
		if (after) {
			after.after(item);
		} else {
			this.#list.prepend(item);
		}
		this.#items.set(message.n, item);
		group(item);
		if (item.nextElementSibling) {
			group(item.nextElementSibling);
		}
	}
}

/** Groups a message with the one before, if the same person sent both within that time. */
function group(item) {
	const before = item.previousElementSibling;
	item.classList.toggle("goes-on", before?.dataset.user === item.dataset.user && item.dataset.at - before.dataset.at < together);
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function show({ n, user, name, text, at }, mine) {
	const time = new Date(at);
	const today = time.toDateString() === new Date().toDateString();
	const by = node("div", { className: "by" },
		mine ? "" : node("strong", {}, `${name} `),
		node("time", { dateTime: at, title: calendar.format(time) }, (today ? clock : calendar).format(time)));
	const item = node("li", { className: mine ? "message mine" : "message" }, face(user, name), by, node("div", { className: "text" }, text));
	if (mine) {
		by.prepend(node("span", { className: "hidden" }, "You, "));
	}
	Object.assign(item.dataset, { n, user, at: time.getTime() });
	return item;
}

/** Shows a message that is on its way. */
export function unsent({ text }) {
	return node("li", { className: "message mine" }, node("div", { className: "text" }, text), node("div", { className: "by" }, "sending …"));
}

/** Returns a person's initials on a colored background. */
export function face(user, name) {
	const initials = name.split(/\s+/).slice(0, 2).map((word) => [...word][0] ?? "").join("").toUpperCase();
	const element = node("span", { className: "face", ariaHidden: "true" }, initials);
	element.dataset.hue = [...user].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) % 6, 0);
	return element;
}
