// The chat's page. Megaphone's client delivers what the backend sends. The page sends its own messages to the backend.

import { Megaphone } from "/client/megaphone.js";
import { Account } from "./account.js";
import { ask, Outbox } from "./backend.js";
import { Connection, names } from "./connection.js";
import { face, node, Timeline, unsent } from "./timeline.js";
import { layPanels, offerTrials } from "./trials.js";

const $ = (id) => document.getElementById(id);

/** The rooms that the page offers. Any other room exists as soon as somebody enters it. */
const rooms = ["lobby", "kitchen", "workshop"];
/** Each page says every 10 seconds that its user is there. A user who was silent for this many milliseconds has left. */
const silence = 25_000;
const typingPause = 3000;
/** If messages are on their way for longer than this many milliseconds, the page says so. */
const patience = 300;

// Each window is a person of its own.
const user = (sessionStorage.user ??= crypto.randomUUID());
let name = (sessionStorage.name ??= `Guest ${Math.floor(Math.random() * 900 + 100)}`);
let room = roomOfAddress();
let waiting = []; // messages on their way to the backend
const sent = new Map(); // messages that the backend has, but this page has not got back yet; by id
const people = new Map(); // who is there, by user
const typists = new Map(); // by user
let told = -typingPause; // when this page last told the others that its user is typing
let late; // a timer until messages on their way are late, or true when they are

const timeline = new Timeline($("messages"), $("scroll"), user);
const account = new Account(tell);
const connection = new Connection(() => account.connected());
const outbox = new Outbox(say, showUnsent, giveBack);

let megaphone; // reads the room

$("transport").value = sessionStorage.transport ?? "";
layPanels($("here"), $("try"));
enter();
offerTrials(tell, {
	begin: () => account.begin("reload", onTheWay().map(({ id }) => id)),
	took: (milliseconds) => connection.tell(`Caddy has taken the new configuration in ${milliseconds} ms`),
	cancel: () => account.cancel(),
});

/**
 * Enters the room, with its history. That takes another client: one client shows no message twice, not even by another
 * channel.
 */
function enter() {
	const last = megaphone;
	const { fetch, WebSocket } = connection;
	const transports = $("transport").value ? [$("transport").value] : undefined;
	const mine = megaphone = new Megaphone("/", createChannel, { fetch, WebSocket, transports, backoff: [250, 5000] });
	const current = (listener) => (value) => mine === megaphone && listener(value);
	connection.watch(megaphone);
	last?.close();
	showRoom();
	outbox.run();
	megaphone.on("gap", current(enter));
	megaphone.on("gone", current(sendAgain));
	megaphone.on("state", current(changed));
	megaphone.subscribe(current(receive));
}

/**
 * Gives the client a channel for the room, at first and whenever the last one is gone. It brings what was said in the room,
 * and then what will be.
 */
async function createChannel() {
	const channel = await ask("enter", { room });
	connection.count("channels");
	$("empty").hidden = timeline.length > 0;
	return channel;
}

/** Keeps account from when a connection is lost until there is another one. */
function changed(state) {
	if (state === "open") {
		account.connected();
		hint("here");
	} else if (state === "waiting" || state === "gone") {
		account.begin("away", onTheWay().map(({ id }) => id));
		account.lost();
	}
}

/** Sends what has not come back once more: the server that had it is gone. It drops repeats, if it has it after all. */
function sendAgain() {
	const messages = [...sent.values()];
	sent.clear();
	outbox.again(messages);
}

/** Tells the others in the room something about the user. It may be lost. */
function hint(kind, options) {
	return ask("hint", { room, kind, user, name, via: megaphone.transport }, options).catch(() => {});
}

/** Handles a message, or a hint about somebody. */
function receive({ body, missed }) {
	if (missed) {
		account.missed(missed);
		enter(); // the channel had no room for something before this
		return;
	}
	const { kind, user: who } = body;
	if (kind === "message") {
		connection.count("messages");
		account.came(body, who === user, timeline.add(body));
		stopTyping(who);
		$("empty").hidden = true;
		if (who === user) {
			sent.delete(body.id);
			showUnsent(waiting);
		}
	} else if (kind === "left") {
		people.delete(who);
		stopTyping(who);
		showPeople();
	} else {
		if (!people.has(who) && who !== user) {
			hint("here"); // somebody has come, who does not know this page
		}
		people.set(who, { name: body.name, via: body.via, heard: performance.now() });
		showPeople();
		if (kind === "typing" && who !== user) {
			showTyping(body);
		}
	}
}

/** Sends a message to the backend. Throws if that fails. The message comes back with those of the others, in their order. */
async function say(message) {
	await ask("say", { ...message, user, name });
	if (message.room === room && !timeline.has(message.id)) {
		sent.set(message.id, message);
	}
}

function roomOfAddress() {
	return roomName(location.hash.slice(1)) || rooms[0];
}

/** Turns a text into the name of a room. */
function roomName(text) {
	return text.trim().toLowerCase().replace(/[^a-z0-9-]+/g, "-").slice(0, 30);
}

function showRoom() {
	document.title = `${room} – Chat`;
	$("room").textContent = `# ${room}`;
	$("second").href = `#${room}`;
	$("rooms").replaceChildren(...(rooms.includes(room) ? rooms : [...rooms, room]).map((name) => {
		const link = node("a", { href: `#${name}` }, name);
		if (name === room) {
			link.setAttribute("aria-current", "page");
		}
		return node("li", {}, link);
	}));
	timeline.clear();
	sent.clear();
	people.clear();
	showPeople();
	typists.forEach(({ timer }) => clearTimeout(timer));
	typists.clear();
	$("typing").textContent = "";
}

function showPeople() {
	const byName = [...people].toSorted(([, a], [, b]) => a.name.localeCompare(b.name));
	$("number").textContent = people.size;
	$("people").replaceChildren(...byName.map(([id, { name, via }]) => node("li", {}, face(id, name),
		node("span", {}, id === user ? `${name} (you)` : name, node("span", { className: "via" }, names[via] ?? "not connected yet")))));
}

/** Returns this page's messages that have not come back yet. */
function onTheWay() {
	return [...sent.values(), ...waiting].filter(({ id }) => !timeline.has(id));
}

/** Shows the messages that are on their way. What the connection's state says agrees with them. */
function showUnsent(messages) {
	waiting = messages;
	if (onTheWay().length === 0) {
		clearTimeout(late);
		late = undefined;
	} else {
		late ??= setTimeout(() => {
			late = true;
			showUnsent(waiting);
		}, patience);
	}
	connection.late = late === true;
	$("unsent").replaceChildren(...onTheWay().filter((message) => message.room === room).map((message) => unsent(message, late === true)));
	timeline.toEnd();
}

/** Shows what happens, or what has happened. */
function tell(text) {
	$("news").textContent = text;
	connection.tell(text);
}

/** Gives back a message that the backend will never accept, because it is too long for example. */
function giveBack({ id, text }) {
	account.refused(id);
	connection.tell("the backend has refused a message");
	$("text").value ||= text;
}

function showTyping({ user, name }) {
	clearTimeout(typists.get(user)?.timer);
	typists.set(user, { name, timer: setTimeout(() => stopTyping(user), typingPause + 1500) });
	showTypists();
}

function stopTyping(user) {
	clearTimeout(typists.get(user)?.timer);
	if (typists.delete(user)) {
		showTypists();
	}
}

function showTypists() {
	const names = [...typists.values()].map(({ name }) => name);
	$("typing").textContent = names.length ? `${new Intl.ListFormat("en").format(names)} ${names.length > 1 ? "are" : "is"} typing …` : "";
}

addEventListener("hashchange", () => {
	if (roomOfAddress() !== room) {
		hint("left");
		room = roomOfAddress();
		account.cancel();
		$("news").textContent = "";
		enter();
	}
});

$("new-room").onsubmit = (event) => {
	event.preventDefault();
	location.hash = roomName($("room-name").value);
	event.target.reset();
};

$("name").value = name;
$("rename").onsubmit = (event) => event.preventDefault();
$("name").onchange = () => {
	name = sessionStorage.name = $("name").value.trim() || name;
	$("name").value = name;
	hint("here");
};

$("composer").onsubmit = (event) => {
	event.preventDefault();
	const text = $("text").value.trim();
	if (text) {
		account.held(outbox.add(room, text));
		$("text").value = "";
		told = -typingPause;
	}
	$("text").focus();
};

$("text").onkeydown = (event) => {
	if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
		event.preventDefault();
		$("composer").requestSubmit();
	}
};

$("text").oninput = () => {
	if (performance.now() - told > typingPause && $("text").value.trim()) {
		told = performance.now();
		hint("typing");
	}
};

$("transport").onchange = () => {
	sessionStorage.transport = $("transport").value;
	enter();
};

$("connection").onkeydown = ({ key }) => {
	if (key === "Escape") {
		$("connection").open = false;
		$("connection").querySelector("summary").focus();
	}
};

setInterval(() => {
	hint("here");
	people.forEach(({ heard }, who) => performance.now() - heard > silence && people.delete(who));
	showPeople();
}, 10_000);

addEventListener("pagehide", () => hint("left", { keepalive: true }));
addEventListener("pageshow", ({ persisted }) => persisted && hint("here"));
