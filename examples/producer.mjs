// Creates a channel and writes to it, with Node's own fetch. The package in client/js does more: it repeats requests
// that got no answer.

const url = process.env.MEGAPHONE_URL ?? "http://127.0.0.1:3000";

async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  const reply = await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!reply.ok) {
    throw new Error(`${path}: ${reply.status} ${await reply.text()}`);
  }
  return reply.json();
}

const channel = await post("/create");
await post(`/write/${channel.producerAddress}/news`, { text: "hello" });
await post(`/write/${channel.producerAddress}/${encodeURIComponent("news")}`, { text: "world" });

// A consumer reads the messages at /read/ plus this address.
console.log(channel.consumerAddress);
