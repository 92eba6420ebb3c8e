// Shows an answer while it is written. The answer is a topic, whose name is in the page's address: so a reload or another
// tab shows the same answer. Each page has a channel of its own, which gets the answer from its start.

import { Megaphone } from "/client/megaphone.js";

const $ = (id) => document.getElementById(id);

/** If nothing arrives for this many milliseconds, the page asks whether anybody still writes. */
const silence = 5000;

const states = {
	connecting: "connecting …",
	writing: "writing …",
	away: "no connection; trying again …",
	done: "The answer is complete.",
	aborted: "The model has stopped in the middle. This is all that there is.",
	unknown: "There is no such answer any more. Ask again.",
};

let answer = ""; // its topic
let client;
let heard = 0;
let messages = 0; // of the channel; while the page keeps up, each is one piece
let channels = 0;

/** Sends a request to the backend. If the backend refuses it, throws an error with the status. */
async function ask(what, body) {
	const response = await fetch(`/api/${what}`, {
		method: "POST",
		headers: { "Content-Type": "application/json" },
		body: JSON.stringify(body),
	});
	if (!response.ok) {
		throw Object.assign(new Error(`the backend replied with status ${response.status}`), { status: response.status });
	}
	return response.json();
}

/** Shows the answer that the address names. */
function open() {
	answer = location.hash.slice(1);
	channels = 0;
	$("shown").hidden = !answer;
	$("again").href = location.href;
	$("asked").textContent = "";
	start();
}

/**
 * Reads the answer from its start, by another channel. That takes another client: one client shows no message twice, not even
 * by another channel.
 */
function start() {
	client?.close();
	client = undefined;
	heard = performance.now();
	messages = 0;
	$("text").replaceChildren("");
	show("connecting");
	if (!answer) {
		return;
	}
	const mine = client = new Megaphone("/", () => createChannel(() => mine === client), { backoff: [250, 5000] });
	const current = (listener) => (value) => mine === client && listener(value);
	client.on("state", current((state) => {
		if (!over()) {
			show({ open: "writing", waiting: "away" }[state] ?? "connecting");
		}
	}));
	client.on("gone", current(start)); // the page was away for too long
	client.on("gap", current(start));
	client.on("end", current((stream) => end(stream.end))); // done, or aborted because the backend died
	client.subscribe(current(receive));
}

/** Gives a client a channel that gets the answer from its start. What comes for a client before the present one changes nothing. */
async function createChannel(isPresent) {
	try {
		const channel = await ask("read", { answer });
		channels += Number(isPresent());
		return channel;
	} catch (error) {
		if (isPresent() && (error.status === 400 || error.status === 404)) {
			end("unknown");
		}
		throw error;
	}
}

function receive({ sid, body, missed }) {
	heard = performance.now();
	messages++;
	if (missed) { // the channel had no room for something before this
		start();
		return;
	}
	if (sid === "question") {
		$("asked").textContent = body;
		document.title = `${body} – Answers`;
	} else {
		$("text").firstChild.appendData(body);
	}
	figures();
}

/** Ends the reading: nothing more will come. */
function end(state) {
	show(state);
	client?.close();
}

function over() {
	return ["done", "aborted", "unknown"].includes($("shown").dataset.state);
}

function show(state) {
	$("shown").dataset.state = state;
	$("state").textContent = states[state];
	$("text").ariaBusy = String(!["done", "aborted", "unknown"].includes(state));
	$("kill").hidden = over();
	figures();
}

function figures() {
	$("figures").textContent = `${$("text").textContent.length} characters in ${messages} messages` +
		(channels > 1 ? `, by the page’s channel number ${channels}` : "");
}

$("ask").onsubmit = async (event) => {
	event.preventDefault();
	const button = event.submitter ?? $("ask").querySelector("button");
	button.disabled = true;
	try {
		const reply = await ask("ask", { question: $("question").value, seconds: Number($("seconds").value) });
		location.hash = reply.answer;
	} catch (error) {
		$("shown").hidden = false;
		$("shown").dataset.state = "unknown";
		$("state").textContent = `The question has not arrived: ${error.message}`;
	} finally {
		button.disabled = false;
	}
};

$("question").onkeydown = (event) => {
	if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
		event.preventDefault();
		$("ask").requestSubmit();
	}
};

$("kill").onclick = () => ask("kill", { answer }).catch(() => {});

setInterval(() => {
	if (answer && !over() && performance.now() - heard > silence) {
		heard = performance.now();
		ask("check", { answer }).catch(() => {}); // another try follows
	}
}, 1000);

addEventListener("hashchange", open);
open();
