// Small helpers to build the page.

/** Makes an element with properties and children. Strings become text, never HTML. */
export function node(name, properties = {}, ...children) {
	const element = Object.assign(document.createElement(name), properties);
	element.append(...children);
	return element;
}

/** Makes an SVG element with attributes and children. */
export function svg(name, attributes = {}, ...children) {
	const element = document.createElementNS("http://www.w3.org/2000/svg", name);
	for (const [key, value] of Object.entries(attributes)) {
		element.setAttribute(key, value);
	}
	element.append(...children);
	return element;
}

/** Changes an element's text and state only if they differ, so that nothing is announced twice and selections stay. */
export function say(element, text, state = "") {
	if (element.textContent !== text) {
		element.textContent = text;
	}
	if ((element.dataset.state ?? "") !== state) {
		element.dataset.state = state;
	}
}

/** Shows named values in a <dl>. A value may also be an object with value, state and title. */
export function figures(list, values) {
	const entries = Object.entries(values);
	if (list.children.length !== entries.length) {
		list.replaceChildren(...entries.map(([name]) => node("div", {}, node("dt", {}, name), node("dd"))));
	}
	entries.forEach(([, entry], i) => {
		const { value, state, title } = Object(entry) === entry ? entry : { value: entry };
		const dd = list.children[i].lastElementChild;
		say(dd, String(value), state || "");
		dd.title = title ?? "";
	});
}

/**
 * Keeps the children of an element in step with a list of items, so that focus and open details survive a refresh.
 * @param key the item's identity
 * @param make makes an object with elements (of which there may be several) and update(item)
 */
export class Rows {
	#parent;
	#key;
	#make;
	#rows = new Map();

	constructor(parent, key, make) {
		this.#parent = parent;
		this.#key = key;
		this.#make = make;
	}

	show(items) {
		const rows = new Map();
		for (const item of items) {
			const key = this.#key(item);
			const row = this.#rows.get(key) ?? this.#make(item);
			row.update(item);
			rows.set(key, row);
		}
		this.#rows = rows;
		const wanted = [...rows.values()].flatMap(({ elements }) => elements);
		const kept = new Set(wanted);
		[...this.#parent.children].forEach((child) => kept.has(child) || child.remove());
		wanted.forEach((element, i) => {
			if (this.#parent.children[i] !== element) {
				this.#parent.insertBefore(element, this.#parent.children[i] ?? null);
			}
		});
	}
}

/** Formats a latency or another short duration, given in milliseconds, for people. */
export function shortDuration(ms) {
	if (ms > 0 && ms < 0.1) {
		return "< 0.1 ms";
	}
	if (ms < 10) {
		return `${ms > 0 ? ms.toFixed(1) : 0} ms`;
	}
	if (ms < 1000) {
		return `${Math.round(ms)} ms`;
	}
	return ms < 10_000 ? `${Number((ms / 1000).toFixed(1))} s` : span(ms);
}

/** Formats how long ago a time was. */
export const ago = (ms) => (ms < 1000 ? "just now" : `${span(ms)} ago`);

/** Formats a longer duration to the second. */
export function span(ms) {
	const s = Math.max(0, Math.round(ms / 1000));
	if (s < 120) {
		return `${s} s`;
	}
	if (s < 7200) {
		return `${Math.round(s / 60)} min`;
	}
	return s < 172_800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86_400)} days`;
}

/** Formats a number of bytes for people. */
export function shortSize(bytes) {
	let unit = 0;
	for (; bytes >= 1024 && unit < 3; unit++) {
		bytes /= 1024;
	}
	return `${unit ? Number(bytes.toFixed(bytes < 100 ? 1 : 0)) : bytes} ${["B", "KiB", "MiB", "GiB"][unit]}`;
}

/** Formats a count with separators. */
export const count = (n) => n.toLocaleString("en");

/** Formats a number with its noun. */
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

/** Formats a rate per second. */
export function rate(perSecond) {
	return perSecond < 10 ? String(Number(perSecond.toFixed(1))) : count(Math.round(perSecond));
}

/** Formats a local time of day. */
export const timeOfDay = (date) => date.toLocaleTimeString("en", { hour12: false });

/** Makes a button that copies a text. The hint says what that is. */
export function copyButton(label, hint, text) {
	const button = node("button", { type: "button", className: "small", title: hint }, label);
	button.onclick = async () => {
		const copied = await copy(text());
		say(button, copied ? "Copied" : "Not copied", copied ? "good" : "bad");
		setTimeout(() => say(button, label), 1500);
	};
	return button;
}

/** Copies a text. Without TLS, pages of other hosts than this one have no clipboard, but can copy a selection. */
async function copy(text) {
	try {
		await navigator.clipboard.writeText(text);
		return true;
	} catch {
		const area = node("textarea", { value: text, className: "hidden" });
		const before = document.activeElement;
		document.body.append(area);
		area.select();
		const copied = document.execCommand("copy");
		area.remove();
		before?.focus();
		return copied;
	}
}
