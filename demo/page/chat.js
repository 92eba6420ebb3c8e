// The chat's page. Megaphone's client delivers what the backend sends. The page sends its own messages to the backend.

import { Megaphone } from "/client/megaphone.js";
import { ask, Outbox, pause } from "./backend.js";
import { Connection } from "./connection.js";
import { face, node, Timeline, unsent } from "./timeline.js";

const $ = (id) => document.getElementById(id);

/** The rooms that the page offers. Any other room exists as soon as somebody enters it. */
const rooms = ["lobby", "kitchen", "workshop"];
/**
 * The backend sends a list of who is there every 5 seconds. If nothing arrives for this many milliseconds, the backend
 * has forgotten this page.
 */
const silence = 20_000;
const typingPause = 3000;

const user = (localStorage.user ??= crypto.randomUUID());
let name = (localStorage.name ??= `Guest ${Math.floor(Math.random() * 900 + 100)}`);
let room = roomOfAddress();
let session = ""; // the channel that the backend has given this page; its address identifies the page
let reading; // the channel that the client reads
let gone; // the channel that no longer exists
let heard = performance.now();
const typists = new Map(); // by user
let told = -typingPause; // when this page last told the others that its user is typing

const timeline = new Timeline($("messages"), $("scroll"), user);
const connection = new Connection();
const megaphone = new Megaphone("/", createChannel, { WebSocket: connection.WebSocket, backoff: [250, 5000] });
const outbox = new Outbox(say, showUnsent, giveBack);

connection.watch(megaphone);
megaphone.on("gone", () => (gone = reading));
megaphone.subscribe(({ sid, body }) => sid === room && receive(body));
showRoom();
outbox.run();

/** Gives the client a channel, at first and whenever the last one is gone. */
async function createChannel() {
	if (!session || session === gone) {
		await join();
	}
	return (reading = session);
}

let lastJoin = Promise.resolve();

/** Tells the backend that this page is in the room, and gets what it missed there. Only one call runs at a time. */
function join() {
	return (lastJoin = lastJoin.catch(() => {}).then(joinNow));
}

async function joinNow() {
	const there = room;
	const after = timeline.complete;
	const reply = await ask("join", { session: session === gone ? "" : session, user, name, room: there, after });
	if (session !== reply.consumerAddress) {
		session = reply.consumerAddress;
		connection.count("channels");
	}
	if (there !== room) {
		return; // the user has already moved to another room, and rejoin joins that one
	}
	heard = performance.now();
	if (reply.newest < after) { // the backend has lost its memory
		timeline.clear();
	}
	if (timeline.complete < after) { // or the user has visited another room meanwhile
		await joinNow();
		return;
	}
	const fresh = timeline.add(reply.messages ?? []);
	timeline.completeTo(reply.newest);
	if (after > 0 && fresh > 0) {
		connection.count("fetched", fresh);
		connection.tell(`fetched ${fresh} missed ${fresh > 1 ? "messages" : "message"} from the history`);
	}
	$("empty").hidden = timeline.length > 0;
}

let joining;

/** Joins again until that works. If the backend has given this page another channel, the client goes on with that. */
function rejoin() {
	joining ??= (async () => {
		for (let as; as !== `${room} ${name}`; ) {
			as = `${room} ${name}`;
			try {
				await join();
				if (session !== reading) {
					megaphone.use(createChannel);
				}
			} catch (error) {
				connection.fault(error);
				await pause(500 + 1000 * Math.random());
				as = undefined;
			}
		}
	})().finally(() => (joining = undefined));
	return joining;
}

/** Handles an event from the backend: what has happened in the room, who is there, and how many messages there are. */
function receive({ kind, what, people, newest }) {
	heard = performance.now();
	if (kind === "message") {
		connection.count("messages");
		timeline.add([what]);
		stopTyping(what.user);
		$("empty").hidden = true;
	} else if (kind === "typing" && what.user !== user) {
		showTyping(what);
	}
	showPeople(people);
	if (timeline.complete < newest) {
		rejoin(); // some messages have not arrived
	}
}

/** Sends a message to the backend. Throws if that fails. */
async function say({ id, room: there, text }) {
	try {
		const message = await ask("say", { session, room: there, id, text });
		if (there === room) {
			timeline.add([message]);
			$("empty").hidden = true;
		}
	} catch (error) {
		if (error.status === 404) {
			await rejoin(); // the backend has forgotten this page
		}
		throw error;
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
	$("rooms").replaceChildren(...(rooms.includes(room) ? rooms : [...rooms, room]).map((name) => {
		const link = node("a", { href: `#${name}` }, name);
		if (name === room) {
			link.setAttribute("aria-current", "page");
		}
		return node("li", {}, link);
	}));
	timeline.clear();
	showPeople({});
	typists.forEach(({ timer }) => clearTimeout(timer));
	typists.clear();
	$("typing").textContent = "";
}

function showPeople(people) {
	const byName = Object.entries(people).toSorted(([, a], [, b]) => a.localeCompare(b));
	$("people").replaceChildren(...byName.map(([id, name]) =>
		node("li", { title: name }, face(id, name), node("span", { className: "who" }, id === user ? `${name} (you)` : name))));
}

function showUnsent(messages) {
	$("unsent").replaceChildren(...messages.filter((message) => message.room === room).map(unsent));
	timeline.toEnd();
}

/** Gives back a message that the backend will never accept, because the room is full for example. */
function giveBack({ text }) {
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
		room = roomOfAddress();
		showRoom();
		outbox.run();
		rejoin();
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
	name = localStorage.name = $("name").value.trim() || name;
	$("name").value = name;
	rejoin();
};

$("composer").onsubmit = (event) => {
	event.preventDefault();
	const text = $("text").value.trim();
	if (text) {
		outbox.add(room, text);
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
		ask("say", { session, room }).catch(() => {}); // it is only a hint and may be lost
	}
};

$("connection").onkeydown = ({ key }) => {
	if (key === "Escape") {
		$("connection").open = false;
		$("connection").querySelector("summary").focus();
	}
};

setInterval(() => {
	if (megaphone.state === "open" && performance.now() - heard > silence) {
		heard = performance.now();
		rejoin();
	}
}, 2000);

addEventListener("pagehide", () => {
	ask("leave", { session, room }, { keepalive: true }).catch(() => {});
});
addEventListener("pageshow", ({ persisted }) => persisted && rejoin());
