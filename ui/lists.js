// The views of topics and of the nodes that share a store.

import { ago, count, node, Rows, say } from "./page.js";
import { timeOf } from "./site.js";

const $ = (id) => document.getElementById(id);

/** Shows topics, where the site serves them. */
export function showTopics(monitor) {
	const rows = new Rows($("topic-list"), ({ topic }) => topic, () => line((t) => [
		t.topic, count(t.members), count(t.connected), count(t.kept), t.closed ? `closed: ${t.closed}` : "open",
	]));
	monitor.onChange(() => {
		const { topics = [], health } = monitor.site ?? {};
		rows.show(topics);
		$("topic-list").closest(".table").hidden = !topics.length;
		say($("no-topics"), topics.length ? "" : health === "OK"
			? "There is no topic. A topic begins when a channel joins it, or when it is told to keep messages."
			: "There is no topic, or they cannot be listed now.");
		const all = monitor.site?.server?.topics ?? topics.length;
		say($("topics-listed"), topics.length < all ? `${count(topics.length)} of ${count(all)} topics listed` : "");
	});
}

/** Shows the servers that share a store, where there is one. */
export function showNodes(monitor) {
	const rows = new Rows($("node-list"), ({ id }) => id, () => line((n) => [
		`${n.host || "unknown host"}${n.process ? `, process ${n.process}` : ""}${n.self ? " (this one)" : ""}`,
		n.id, count(n.readers), ago(monitor.clock.now() - timeOf(n.seen)),
	]));
	monitor.onChange(() => rows.show(monitor.site?.server?.nodes ?? []));
}

/** A row of texts. The first is its heading. */
function line(texts) {
	const row = node("tr");
	return {
		elements: [row],
		update(item) {
			texts(item).forEach((text, i) => {
				if (!row.children[i]) {
					row.append(node(i ? "td" : "th", i ? {} : { scope: "row" }));
				}
				say(row.children[i], text);
			});
		},
	};
}
