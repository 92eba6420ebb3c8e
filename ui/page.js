// Small helpers to build the page.

/** Makes an element with properties and children. Strings become text, never HTML. */
export function node(name, properties = {}, ...children) {
	const element = Object.assign(document.createElement(name), properties);
	element.append(...children);
	return element;
}

/** Shows named values in a <dl>. A value may also be an object with value, state and title. */
export function figures(list, values) {
	list.replaceChildren(...Object.entries(values).map(([name, entry]) => {
		const { value, state, title } = Object(entry) === entry ? entry : { value: entry };
		const dd = node("dd", { title: title ?? "" }, String(value));
		dd.dataset.state = state || "";
		return node("div", {}, node("dt", {}, name), dd);
	}));
}

/** Formats a duration, given in milliseconds, for people. */
export function shortDuration(ms) {
	if (ms < 0.1) {
		return "< 0.1 ms";
	}
	if (ms < 10) {
		return `${ms.toFixed(1)} ms`;
	}
	if (ms < 1000) {
		return `${Math.round(ms)} ms`;
	}
	return ms < 120_000 ? `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s` : `${Math.round(ms / 60_000)} min`;
}

/** Formats a number of bytes for people. */
export function shortSize(bytes) {
	let unit = 0;
	for (; bytes >= 1024 && unit < 3; unit++) {
		bytes /= 1024;
	}
	return `${unit ? bytes.toFixed(1) : bytes} ${["B", "KiB", "MiB", "GiB"][unit]}`;
}
