// Publishes the log of a build to everybody who has joined its topic, and ends the topic, with Node's own fetch. The package in
// client/js does more: it repeats requests that got no answer.

const url = process.env.MEGAPHONE_URL ?? "http://127.0.0.1:3000";
const topic = `build-${process.pid}`;

async function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  const reply = await fetch(url + path, { method, headers, body: JSON.stringify(body) });
  if (!reply.ok) {
    throw new Error(`${path}: ${reply.status} ${await reply.text()}`);
  }
  return reply.json();
}

// A page's channel. It knows topics, so it learns what it has missed, and when a topic ends.
const channel = await send("POST", "/create", { topics: [] });

// It joins, and gets first what the topic keeps, if the server keeps any. In one request: { topics: [{ topic, last: "all" }] }
await send("PUT", `/topic/${topic}/${channel.producerAddress}?last=all`);

await send("POST", `/publish/${topic}/log`, { text: "hello" });
const result = await send("POST", `/publish/${topic}/log`, { text: "world" });
console.error(`${result.accepted} of ${result.members} members have it, ${result.full} were too slow`);
await send("POST", `/topic/${topic}/close`, { as: "done" }); // later publishes get 409

// A member reads the messages at /read/ plus this address.
console.log(channel.consumerAddress);
