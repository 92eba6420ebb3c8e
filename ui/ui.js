// The Inspector: what its buttons do. The cards that read channels are in reader.js.

import { figures, node, shortDuration, shortSize } from "./page.js";
import { Reader } from "./reader.js";
import { call, Clock, timeOf } from "./site.js";
import { transports } from "./transports.js";

/** How often the page asks for the state of its channels and the server, in milliseconds. */
const stateInterval = 2000;

const $ = (id) => document.getElementById(id);
const clock = new Clock();
/** The channels of this page. Each has its addresses, the kinds of transport that read it, and its row in the table. */
let channels = [];
let readers = new Map();
let site = { endpoints: [], transports: [] };
let written = 0;
let steady;

start();

async function start() {
	try {
		for (let i = 0; i < 5; i++) {
			site = await clock.fetch("ui/state.json");
		}
	} catch (error) {
		notice(`The server does not answer: ${error.message}`);
		return;
	}
	const { settings: s, agent } = site;
	$("site").textContent = `Agent ${agent}. A channel holds ${s.buffer} messages before producers wait, for ` +
		`${shortDuration(s.hold)}, and lives ${shortDuration(s.ttl)} without a reader. A read lasts ` +
		`${shortDuration(s.readDuration)}, a stream ${shortDuration(s.streamDuration)}.`;
	const missing = ["create", "write", "read"].filter((name) => !serves(name));
	if (missing.length) {
		notice(`This site does not serve ${missing.join(", ")}: that part of the page is switched off.`);
	}
	for (const kind of site.transports) {
		const reader = new Reader(kind, clock);
		readers.set(kind, reader);
		$("readers").append(reader.element);
	}
	disable($("create"), !serves("create"));
	disable($("existing"), !serves("read"));
	disable($("write"), true);
	$("read-all").disabled = $("stop-all").disabled = true;
	document.querySelectorAll("#channels .state").forEach((cell) => (cell.hidden = !serves("manage")));
	$("create").onsubmit = handle(create);
	$("existing").onsubmit = handle(useExisting);
	$("write").onsubmit = handle(({ submitter }) => write(Number(submitter?.value ?? 1)));
	$("write").oninput = showCurl;
	$("steady").onclick = toggleSteady;
	$("read-all").onclick = () => readers.forEach((reader) => reader.start());
	$("stop-all").onclick = () => readers.forEach((reader) => reader.stop());
	showServer();
	setInterval(() => document.hidden || refresh(), stateInterval);
}

function serves(endpoint) {
	return site.endpoints.includes(endpoint);
}

/** Makes a listener for a form's submission. The page shows what submit throws. */
function handle(submit) {
	return async (event) => {
		event.preventDefault();
		notice("");
		try {
			await submit(event);
		} catch (error) {
			notice(error.message);
		}
	};
}

function notice(text) {
	$("notice").textContent = text;
	$("notice").hidden = !text;
}

function disable(form, disabled) {
	for (const element of form.elements) {
		element.disabled = disabled;
	}
}

async function create() {
	const kinds = [...readers.keys()];
	const shares = new FormData($("create")).get("mode") === "one" ? [kinds] : kinds.map((kind) => [kind]);
	const created = await Promise.all(shares.map(() => call("create", "POST")));
	use(created.map((addresses, i) => ({ ...addresses, kinds: shares[i] })));
}

function useExisting() {
	const { consumer, producer } = Object.fromEntries(new FormData($("existing")));
	use([{ consumerAddress: consumer.trim(), producerAddress: producer.trim(), kinds: [...readers.keys()] }]);
}

/** Uses these channels from now on. */
function use(these) {
	channels = these;
	for (const channel of channels) {
		channel.state = node("td", { className: "state", hidden: !serves("manage") }, "…");
		const remove = node("button", { className: "small", onclick: () => removeChannel(channel) }, "Delete");
		channel.row = node("tr", {},
			node("td", {}, channel.kinds.length > 1 ? "all" : transports[channel.kinds[0]].name),
			node("td", { className: "address" }, channel.consumerAddress),
			node("td", { className: "address" }, channel.producerAddress || "not known"),
			channel.state,
			node("td", { className: "state", hidden: !serves("manage") }, remove));
		channel.kinds.forEach((kind) => readers.get(kind).use(channel));
	}
	$("channels").querySelector("tbody").replaceChildren(...channels.map(({ row }) => row));
	$("channels").hidden = false;
	stopSteady();
	disable($("write"), !serves("write") || producers().length === 0);
	$("read-all").disabled = $("stop-all").disabled = !serves("read");
	$("written").textContent = "Nothing written yet.";
	showCurl();
	refresh();
}

const producers = () => channels.map(({ producerAddress }) => producerAddress).filter(Boolean);

async function removeChannel(channel) {
	try {
		await call(`channel/${encodeURIComponent(channel.consumerAddress)}`, "DELETE");
	} catch (error) {
		notice(error.message);
	}
	refresh();
}

/** Writes the form's message a number of times, one after the other. */
async function write(times) {
	const began = performance.now();
	const { stream, body, key } = Object.fromEntries(new FormData($("write")));
	const output = $("written");
	output.dataset.state = "";
	const refused = [];
	for (let i = 0; i < times; i++) {
		const text = numbered(body, written + 1);
		try {
			JSON.parse(text);
		} catch (error) {
			output.dataset.state = "bad";
			output.textContent = `The body is not JSON: ${error.message}`;
			return;
		}
		written++;
		try {
			refused.push(...(await writeOne(stream, text, key)));
		} catch (error) {
			refused.push(error.message);
			break;
		}
	}
	const took = shortDuration(performance.now() - began);
	if (refused.length) {
		output.dataset.state = "bad";
		output.textContent = `Refused: ${[...new Set(refused)].join(", ")}, after ${took}.`;
	} else {
		output.textContent = `${times > 1 ? `${times} messages` : `Message ${written}`} accepted after ${took}.`;
	}
}

const numbered = (body, n) => body.replaceAll("{n}", n);

/** Writes a message to all channels. Returns the reasons why channels refused it. */
async function writeOne(stream, text, key) {
	const addresses = producers();
	if (addresses.length === 1) {
		await call(`write/${encodeURIComponent(addresses[0])}/${encodeURIComponent(stream)}`, "POST", text,
			key ? { "Idempotency-Key": key } : {});
		return [];
	}
	const { failures } = await call("write-batch", "POST", batch(addresses, stream, text, key));
	return failures.map(({ channel, reason }) => `${reason} by ${channelName(channel)}`);
}

/** Returns the body of a write-batch request. The message keeps its text unchanged. */
function batch(addresses, stream, text, key) {
	return `{"channels":${JSON.stringify(addresses)},"messages":[{"streamId":${JSON.stringify(stream)},` +
		`${key ? `"key":${JSON.stringify(key)},` : ""}"body":${text}}]}`;
}

const channelName = (producer) => {
	const { kinds } = channels.find(({ producerAddress }) => producerAddress === producer);
	return kinds.map((kind) => transports[kind].name).join(", ");
};

function toggleSteady() {
	if (steady) {
		stopSteady();
		return;
	}
	$("steady").setAttribute("aria-pressed", "true");
	let busy = false; // a full channel holds the write, and the next write waits for it
	steady = setInterval(async () => {
		if (!busy) {
			busy = true;
			await write(1);
			busy = false;
		}
	}, 500);
}

function stopSteady() {
	clearInterval(steady);
	steady = undefined;
	$("steady").setAttribute("aria-pressed", "false");
}

function showCurl() {
	const addresses = producers();
	if (addresses.length === 0) {
		$("curl").textContent = "";
		return;
	}
	const { stream, body, key } = Object.fromEntries(new FormData($("write")));
	const url = (path) => quote(new URL(`../${path}`, location).href);
	const text = numbered(body ?? "", written + 1);
	$("curl").textContent = (addresses.length === 1
		? [`curl ${url(`write/${addresses[0]}/${encodeURIComponent(stream)}`)}`, "-H 'Content-Type: application/json'",
			...(key ? [`-H ${quote(`Idempotency-Key: ${key}`)}`] : []), `-d ${quote(text)}`]
		: [`curl ${url("write-batch")}`, "-H 'Content-Type: application/json'", `-d ${quote(batch(addresses, stream, text, key))}`]
	).join(" \\\n  ");
}

/** Quotes a text for a shell. */
const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Fetches and shows the state of the server and of the page's channels. */
async function refresh() {
	try {
		site = await clock.fetch("ui/state.json");
		showServer();
	} catch {
		// The readers show that the server is gone.
	}
	if (serves("manage")) {
		await Promise.all(channels.map(showState));
	}
}

async function showState({ consumerAddress, state }) {
	try {
		const { connected, pending, inFlight, expires } = await call(`channel/${encodeURIComponent(consumerAddress)}`);
		state.textContent = `${connected ? "is read" : `expires in ${shortDuration(Math.max(0, timeOf(expires) - clock.now()))}`}, ` +
			`${pending} pending, ${inFlight} in flight`;
	} catch (error) {
		state.textContent = error.status === 404 ? "is gone" : "not known";
	}
}

/** Shows the server's figures, channels and topics, if the site reports them. */
function showServer() {
	const { server, topics = [] } = site;
	$("topics").hidden = !topics.length;
	$("topic-list").replaceChildren(...topics.map((t) => node("tr", {},
		...[t.topic, t.members, t.connected, t.kept, t.closed ?? "no"].map((text) => node("td", {}, String(text))))));
	$("server").hidden = !server;
	if (!server) {
		return;
	}
	figures($("figures"), {
		Channels: `${server.channels.toLocaleString("en")} of ${server.maxChannels.toLocaleString("en")}`,
		Memory: `${shortSize(server.bufferedBytes)} of ${shortSize(server.maxMemory)}`,
		Undelivered: {
			value: server.undelivered, state: server.undelivered && "warn",
			title: "Messages whose channel was deleted before they were received",
		},
		Drained: server.draining ? "yes" : "no",
	});
	$("listed").textContent = server.list.length < server.channels
		? `${server.list.length} of ${server.channels} channels` : "";
	const ago = (time) => `${shortDuration(Math.max(0, clock.now() - timeOf(time)))} ago`;
	$("list").replaceChildren(...server.list.map((c) => node("tr", {},
		node("td", { className: "address" }, c.id),
		node("td", {}, c.connected ? "connected" : c.lastRead ? "left" : "none yet"),
		node("td", {}, String(c.pending)),
		node("td", {}, String(c.inFlight)),
		node("td", {}, ago(c.created)),
		node("td", {}, c.expires ? `in ${shortDuration(Math.max(0, timeOf(c.expires) - clock.now()))}` : "not while it is read"))));
}
