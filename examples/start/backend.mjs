import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";

async function megaphone(path, body) {
  const headers = { "Content-Type": "application/json" };
  const reply = await fetch("http://127.0.0.1:3000" + path, { method: "POST", headers, body });
  if (!reply.ok) throw new Error(await reply.text());
  return reply.json();
}
async function answer(request) {
  if (request.method !== "POST") return readFile(new URL("page.html", import.meta.url));
  const body = await text(request);
  if (request.url === "/say") return JSON.stringify(await megaphone("/publish/room/chat", body));
  const channel = await megaphone("/create", '{"topics": ["room"]}');
  await megaphone("/write/" + channel.producerAddress + "/chat", '"Welcome"');
  return channel.consumerAddress;
}
createServer(async (request, response) => {
  response.end(await answer(request).catch((error) => (response.statusCode = 502, error.message)));
}).listen(8000, "127.0.0.1");
