// Shows the messages of a room, in the order in which they come. That order is the same for all pages.

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
	#ids = new Set();

	constructor(list, scroll, user) {
		this.#list = list;
		this.#scroll = scroll;
		this.#user = user;
	}

	get length() {
		return this.#ids.size;
	}

	has(id) {
		return this.#ids.has(id);
	}

	clear() {
		this.#ids.clear();
		this.#list.replaceChildren();
	}

	/** Adds a message, unless it is there already. Reports whether it has. */
	add(message) {
		if (this.#ids.has(message.id)) {
			return false;
		}
		const atEnd = this.#scroll.scrollHeight - this.#scroll.scrollTop - this.#scroll.clientHeight < 80;
		this.#ids.add(message.id);
		const item = show(message, message.user === this.#user);
		this.#list.append(item);
		group(item);
		if (atEnd || message.user === this.#user) {
			this.toEnd();
		}
		return true;
	}

	toEnd() {
		this.#scroll.scrollTop = this.#scroll.scrollHeight;
	}
}

/** Groups a message with the one before, if the same person sent both within that time. */
function group(item) {
	const before = item.previousElementSibling;
	item.classList.toggle("goes-on", before?.dataset.user === item.dataset.user && item.dataset.at - before.dataset.at < together);
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function show({ user, name, text, at }, mine) {
	const time = new Date(at);
	const today = time.toDateString() === new Date().toDateString();
	const by = node("div", { className: "by" },
		mine ? "" : node("strong", {}, `${name} `),
		node("time", { dateTime: at, title: calendar.format(time) }, (today ? clock : calendar).format(time)));
	const item = node("li", { className: mine ? "message mine" : "message" }, face(user, name), by, node("div", { className: "text" }, ...linked(text)));
	if (mine) {
		by.prepend(node("span", { className: "hidden" }, "You, "));
	}
	Object.assign(item.dataset, { user, at: time.getTime() });
	return item;
}

/** Shows a message that is on its way. Late says that this takes longer than usual. */
export function unsent({ text }, late) {
	return node("li", { className: "message mine" }, node("div", { className: "text" }, text), node("div", { className: "by" }, late ? "sending …" : ""));
}

/** Splits a text into strings and links. Only addresses of the web become links. The rest stays as it is. */
function linked(text) {
	return text.split(/(https?:\/\/[^\s<>"]*[^\s<>"'.,:;!?)\]}])/i).map((part, i) => {
		const url = i % 2 === 1 && URL.canParse(part) ? new URL(part) : undefined;
		return ["http:", "https:"].includes(url?.protocol)
			? node("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, part)
			: part;
	});
}

/** Returns a person's initials on a colored background. */
export function face(user, name) {
	const initials = name.split(/\s+/).slice(0, 2).map((word) => [...word][0] ?? "").join("").toUpperCase();
	const element = node("span", { className: "face", ariaHidden: "true" }, initials);
	element.dataset.hue = [...user].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) % 6, 0);
	return element;
}
