// Runs the code of docs/answers.md for plain backends and pages.
//
// Arguments: the folder with the code, the URL of the site, the port of the backend, the URL of a site with manage.

import assert from "node:assert/strict";

import { element, pageOf, serve, until, gate } from "./answers_page.mjs";

const [folder, site, port, manage] = process.argv.slice(2);
pageOf(site);
const { begin, channelFor } = await import(`${folder}/answers.js`);
const { show } = await import(`${folder}/page.js`);

const channels = {}; // by answer
await serve(port, {
  read: async ({ answer }) => {
    const channel = await channelFor(answer);
    (channels[answer] ??= []).push(channel?.consumerAddress);
    return channel;
  },
});

// An answer that is never written, because its first piece takes its time, is there all the same.
const slow = gate();
async function* silent() {
  await slow.opened;
}
const empty = await begin(silent());
const blank = element();
const waited = show(empty.answer, blank);

// Two pages show the same answer, the second from its start. The first loses its channel in between.
const first = gate();
const second = gate();
async function* pieces() {
  yield "Once ";
  yield "upon ";
  await first.opened;
  yield "a ";
  await second.opened;
  yield "time";
}
const { answer, written } = await begin(pieces());
const one = element();
const shown = show(answer, one);
await until("the page shows the beginning", () => one.text === "Once upon ");
const reply = await fetch(`${manage}/channel/${channels[answer][0]}`, { method: "DELETE" });
assert.equal(reply.status, 200);
first.open();
const two = element();
const shownToo = show(answer, two);
await until("the page has gone on", () => one.text === "Once upon a ");
await until("the second page is there too", () => two.text === "Once upon a ");
assert.equal(channels[answer].length, 3);
second.open();
await Promise.all([shown, shownToo]);
assert.equal(one.text, "Once upon a time");
assert.equal(two.text, "Once upon a time");
await written;

// A page that comes after the end.
slow.open();
await Promise.all([waited, empty.written]);
assert.equal(blank.text, "");
const later = element();
await show(answer, later);
assert.equal(later.text, "Once upon a time");

// A model that dies.
async function* dying() {
  yield "Once ";
  await new Promise((resolve) => setTimeout(resolve, 50)); // the line is sent
  throw new Error("the model dies");
}
const broken = await begin(dying());
const partial = element();
await Promise.all([show(broken.answer, partial), assert.rejects(broken.written)]);
assert.equal(partial.text, "Once  … (this is not all)");

// An answer that does not exist.
const unknown = element();
await show("answer-unknown", unknown);
assert.equal(unknown.text, " (there is no such answer)");
process.exit();
