// A small chart of the last minutes.

import { node, span, svg, timeOfDay } from "./page.js";

/** How much time a chart shows, in milliseconds: at first the least, in the end the most. */
const least = 60_000;
const most = 5 * least;

/** The size of the drawing. It is stretched to the size of the element. */
const width = 300;
const height = 40;

export class Chart {
	#points = [];
	#format;
	#about;
	#area = svg("path", { class: "area" });
	#line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
	#mark = svg("line", { class: "mark", y1: 0, y2: height, "vector-effect": "non-scaling-stroke", visibility: "hidden" });
	#note = node("span", { className: "note" });
	#pointer;
	#drawing;
	element;

	/**
	 * @param about what the chart shows, for those who cannot see it
	 * @param format turns a value into text
	 */
	constructor(about, format) {
		this.#about = about;
		this.#format = format;
		this.#drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" },
			svg("line", { class: "ground", x1: 0, x2: width, y1: height, y2: height, "vector-effect": "non-scaling-stroke" }),
			this.#area, this.#line, this.#mark);
		this.#drawing.onpointermove = (event) => {
			const { left, width: size } = this.#drawing.getBoundingClientRect();
			this.#pointer = (event.clientX - left) / size;
			this.#draw();
		};
		this.#drawing.onpointerleave = () => {
			this.#pointer = undefined;
			this.#draw();
		};
		this.element = node("div", { className: "chart" }, this.#drawing, this.#note);
	}

	/** Adds a value, or undefined if it is unknown, which leaves a gap. */
	push(time, value) {
		this.#points.push({ time, value });
		while (this.#points[0].time < time - most) {
			this.#points.shift();
		}
		this.#draw();
	}

	#draw() {
		const known = this.#points.filter(({ value }) => value !== undefined);
		if (!known.length) {
			this.#note.textContent = "no data yet";
			this.#drawing.setAttribute("aria-label", `${this.#about}: no data yet`);
			return;
		}
		const now = this.#points.at(-1).time;
		const shown = Math.max(least, now - this.#points[0].time);
		const highest = known.reduce((max, { value }) => Math.max(max, value), 0);
		const x = (time) => width - ((now - time) / shown) * width;
		const y = (value) => height - 1 - (value / (highest || 1)) * (height - 4);
		let line = "";
		let area = "";
		for (const part of parts(this.#points)) {
			const path = part.map(({ time, value }) => `${x(time).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
			line += `M${path}`;
			area += `M${x(part[0].time).toFixed(1)} ${height}L${path}L${x(part.at(-1).time).toFixed(1)} ${height}Z`;
		}
		this.#line.setAttribute("d", line);
		this.#area.setAttribute("d", area);
		const summary = `highest ${this.#format(highest)}`;
		this.#drawing.setAttribute("aria-label", `${this.#about}, last ${span(shown)}: now ${this.#format(known.at(-1).value)}, ${summary}`);
		const at = this.#pointed(known, now - shown, now);
		this.#mark.setAttribute("visibility", at ? "visible" : "hidden");
		if (at) {
			this.#mark.setAttribute("x1", x(at.time));
			this.#mark.setAttribute("x2", x(at.time));
		}
		this.#note.textContent = at ? `${timeOfDay(new Date(at.time))} · ${this.#format(at.value)}` : summary;
	}

	/** Returns the point that the pointer is nearest to, if there is a pointer. */
	#pointed(known, first, last) {
		if (this.#pointer === undefined) {
			return undefined;
		}
		const time = first + this.#pointer * (last - first);
		return known.reduce((best, point) => (Math.abs(point.time - time) < Math.abs(best.time - time) ? point : best));
	}
}

/** Splits points where values are unknown. */
function parts(points) {
	const all = [[]];
	for (const point of points) {
		if (point.value !== undefined) {
			all.at(-1).push(point);
		} else if (all.at(-1).length) {
			all.push([]);
		}
	}
	return all.filter((part) => part.length);
}
