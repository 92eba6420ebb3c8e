// What the scripts that run docs/answers.md share: a stand-in for a page, and a backend for it.

import { createServer } from "node:http";

/** Makes this process look like a page of a site. */
export function pageOf(site) {
  const { fetch } = globalThis;
  globalThis.location = new URL(`${site}/`);
  globalThis.WebSocket = undefined; // Node 20 has none
  globalThis.fetch = (path, request) => fetch(new URL(path, site), request);
}

/** Serves functions of a body below /api/. One that returns nothing is a 404. */
export async function serve(port, functions) {
  const server = createServer(async (request, response) => {
    let text = "";
    for await (const chunk of request) {
      text += chunk;
    }
    const reply = await functions[request.url.slice("/api/".length)](JSON.parse(text));
    response.writeHead(reply ? 200 : 404, { "Content-Type": "application/json" });
    response.end(JSON.stringify(reply ?? null));
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
}

/** Stands in for an element of a page. */
export function element() {
  return { text: "", append(text) { this.text += text; } };
}

/** Returns a promise, opened, and a function that resolves it. */
export function gate() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { open, opened };
}

/** Waits until a condition holds. */
export async function until(what, condition) {
  for (const deadline = Date.now() + 30_000; !condition(); ) {
    if (Date.now() > deadline) {
      throw new Error(`waited in vain until ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
