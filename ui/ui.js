// The Inspector: starts its parts, and shows one of its views.

import { Bench } from "./bench.js";
import { Channels } from "./channels.js";
import { showNodes, showTopics } from "./lists.js";
import { Monitor } from "./monitor.js";
import { Overview } from "./overview.js";
import { count, say } from "./page.js";

const $ = (id) => document.getElementById(id);
const views = ["channels", "topics", "nodes", "try"];

const monitor = new Monitor();
new Overview(monitor);
const bench = new Bench(monitor);
new Channels(monitor, bench);
showTopics(monitor);
showNodes(monitor);

let started = false;
monitor.onChange(() => {
	if (monitor.site && !started) {
		started = true;
		bench.start();
		$("views").hidden = false;
		addEventListener("hashchange", showView);
	}
	if (started) {
		showViews();
	}
});
monitor.start();
document.addEventListener("visibilitychange", () => document.hidden || monitor.ask());

/** Which views there is something for. */
function available() {
	const { site } = monitor;
	return views.filter((view) => ({ channels: site.server, topics: monitor.serves("topics"), nodes: site.server?.nodes, try: true })[view]);
}

/** Shows the links to the views that there are. */
function showViews() {
	const there = available();
	for (const view of views) {
		$(`to-${view}`).hidden = !there.includes(view);
	}
	$("views").hidden = there.length < 2;
	const { server, topics } = monitor.site;
	say($("channel-count"), server ? count(server.channels) : "");
	say($("topic-count"), topics ? count(server?.topics || topics.length) : "");
	say($("node-count"), server?.nodes ? count(server.nodes.length) : "");
	showView();
}

/** Shows the view that the address names, or the first one. */
function showView() {
	const there = available();
	const named = location.hash.slice(1);
	const current = there.includes(named) ? named : there[0];
	for (const view of views) {
		$(`view-${view}`).hidden = view !== current;
		const link = $(`to-${view}`);
		if (view === current) {
			link.setAttribute("aria-current", "page");
		} else {
			link.removeAttribute("aria-current");
		}
	}
}
