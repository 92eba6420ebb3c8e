// Runs the code of docs/answers.md for AI kits, with the kits as they are published and stand-ins for models.
//
// Arguments: the folder with the code, the URL of the site, the port of the backend, the URL of a site with manage.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { createRequire } from "node:module";

import { gate, pageOf, serve, until } from "./answers_page.mjs";

const [folder, site, port, manage] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const load = (name) => import(require.resolve(name));
const { fetch } = globalThis;

const collect = async (pieces) => {
  const all = [];
  for await (const piece of pieces) {
    all.push(piece);
  }
  return all;
};

// Where each kit has the text.
const { ofResponses, ofCompletions, ofLangChain } = await import(`${folder}/pieces.js`);
await openAI();
const { FakeStreamingChatModel } = await load("@langchain/core/utils/testing");
const { AIMessageChunk } = await load("@langchain/core/messages");
const chunks = ["Hel", "", "lo"].map((content) => new AIMessageChunk(content));
assert.deepEqual(await collect(ofLangChain(await new FakeStreamingChatModel({ chunks }).stream("Why?"))), ["Hel", "lo"]);
console.log("the texts are found");

/** Has OpenAI's SDK talk to a stand-in for its server. */
async function openAI() {
  const replies = {
    "/responses": ["response.created", ["response.output_text.delta", "Hel"], ["response.output_text.delta", "lo"], "response.completed"],
    "/failing/responses": [["response.output_text.delta", "Hel"], "response.failed"],
  };
  const server = createServer((request, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    if (request.url === "/chat/completions") {
      for (const delta of [{ role: "assistant", content: "" }, { content: "Hel" }, { content: "lo" }, {}]) {
        response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", choices: [{ index: 0, delta }] })}\n\n`);
      }
      response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", choices: [], usage: {} })}\n\n`);
      response.end("data: [DONE]\n\n");
      return;
    }
    for (const event of replies[request.url]) {
      const [type, delta] = [event].flat();
      response.write(`event: ${type}\ndata: ${JSON.stringify({ type, delta })}\n\n`);
    }
    response.end();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { default: OpenAI } = await load("openai");
  const client = (path) => new OpenAI({ apiKey: "none", baseURL: `http://127.0.0.1:${server.address().port}${path}` });
  const ask = { model: "m", input: "Why?", messages: [{ role: "user", content: "Why?" }], stream: true };
  assert.deepEqual(await collect(ofResponses(await client("").responses.create(ask))), ["Hel", "lo"]);
  await assert.rejects(async () => collect(ofResponses(await client("/failing").responses.create(ask))), /response.failed/);
  assert.deepEqual(await collect(ofCompletions(await client("").chat.completions.create(ask))), ["Hel", "lo"]);
  server.closeAllConnections();
  server.close();
}

// The AI SDK. A model writes until it is told how to go on.
const { MockLanguageModelV4 } = await load("ai/test");
const { Chat } = await load("@ai-sdk/react");
const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } };
let goOn = gate();
const model = new MockLanguageModelV4({
  doStream: async () => ({
    stream: new ReadableStream({
      async start(controller) {
        const text = (delta) => controller.enqueue({ type: "text-delta", id: "t", delta });
        controller.enqueue({ type: "stream-start", warnings: [] });
        controller.enqueue({ type: "text-start", id: "t" });
        "Once upon ".split("").forEach(text);
        await goOn.opened;
        text("a time");
        controller.enqueue({ type: "text-end", id: "t" });
        controller.enqueue({ type: "finish", finishReason: { unified: "stop", raw: "stop" }, usage });
        controller.close();
      },
    }),
  }),
});

pageOf(site);
const { channelFor } = await import(`${folder}/answers.js`);
const { chat, pending } = await import(`${folder}/chat.js`);
const { MegaphoneTransport } = await import(`${folder}/transport.js`);
const channels = [];
await serve(port, {
  chat: (body) => chat(body, model),
  pending: async (body) => (body.chatId === "python" ? { answer: python } : pending(body)),
  read: async ({ answer }) => {
    const channel = await channelFor(answer);
    channels.push(channel?.consumerAddress);
    return channel;
  },
});
let python; // an answer by a backend in Python
const faults = [];
const open = (id, messages = []) => new Chat({ id, messages, transport: new MegaphoneTransport(), onError: (error) => faults.push(error) });
const textOf = ({ messages }) => messages.map(({ parts }) => parts.map(({ text }) => text ?? "").join("")).join("|");

// A page, the same page after a reload, and a page whose channel is deleted meanwhile.
const page = open("one");
const sent = page.sendMessage({ text: "Why?" });
await until("the page shows the beginning", () => textOf(page) === "Why?|Once upon ");
const reloaded = open("one", page.messages.slice(0, 1));
const resumed = reloaded.resumeStream();
await until("it does so after a reload", () => textOf(reloaded) === "Why?|Once upon ");
assert.equal((await fetch(`${manage}/channel/${channels[0]}`, { method: "DELETE" })).status, 200);
goOn.open();
await Promise.all([sent, resumed]);
assert.equal(textOf(page), "Why?|Once upon a time");
assert.equal(textOf(reloaded), "Why?|Once upon a time");
assert.equal(page.messages[1].id, reloaded.messages[1].id);
assert.equal(page.status, "ready");
assert.equal(reloaded.status, "ready");
assert.deepEqual(faults, []);
assert.equal(channels.length, 3);
await until("the answer is no longer pending", () => pending({ chatId: "one" }).answer === undefined);
const complete = open("one", page.messages);
await complete.resumeStream();
assert.equal(textOf(complete), "Why?|Once upon a time");

// A page that stops reading, and reads again.
goOn = gate();
const impatient = open("two");
const stopped = impatient.sendMessage({ text: "Why?" });
await until("the page shows the beginning", () => textOf(impatient) === "Why?|Once upon ");
await impatient.stop();
await stopped;
const reads = channels.length;
const again = impatient.resumeStream();
await until("the page reads again", () => channels.length > reads); // an answer that has ended is not pending
goOn.open();
await again;
assert.equal(textOf(impatient), "Why?|Once upon a time");
console.log("chats go on");

// A backend in Python.
const { execFileSync } = await import("node:child_process");
const script = "import answers, ui; name = answers.begin(); ui.write_message(name, ['Once upon ', 'a time']); print(name)";
python = execFileSync("python3", ["-c", script], { encoding: "utf8" }).trim();
const foreign = open("python");
await foreign.resumeStream();
assert.equal(textOf(foreign), "Once upon a time");
console.log("a backend in Python");

await react();

/** Shows the chat with React. */
async function react() {
  const { Window } = await import("../../client/js/node_modules/happy-dom/lib/index.js").catch(() => ({}));
  const { transform } = await import("../../client/js/node_modules/esbuild/lib/main.js").then((m) => m.default ?? m, () => ({}));
  if (!Window || !transform) {
    console.log("SKIPPED: React: run npm ci in client/js");
    return;
  }
  const { readFileSync, writeFileSync } = await import("node:fs");
  const { code } = await transform(readFileSync(`${folder}/chat-page.jsx`), { loader: "jsx", jsx: "automatic" });
  writeFileSync(`${folder}/chat-page.mjs`, code);
  const window = new Window({ url: site });
  globalThis.window = window;
  globalThis.document = window.document;
  Object.defineProperty(globalThis, "navigator", { value: window.navigator, configurable: true });
  globalThis.HTMLIFrameElement = window.HTMLIFrameElement;
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.removeEventListener = window.removeEventListener.bind(window);
  const { createElement } = await load("react");
  const { createRoot } = await load("react-dom/client");
  const { ChatPage } = await import(`${folder}/chat-page.mjs`);
  goOn = gate();
  const show = () => {
    const target = window.document.body.appendChild(window.document.createElement("div"));
    createRoot(target).render(createElement(ChatPage, { chatId: "three", history: [] }));
    return () => [...target.querySelectorAll("p")].map((p) => p.textContent).join("|");
  };
  const first = show();
  await until("there is a button", () => window.document.querySelector("button"));
  window.document.querySelector("button").click();
  await until("React shows the beginning", () => first() === "Why?|Once upon ");
  const second = show(); // without history, it shows the answer only
  await until("another page shows it too", () => second() === "Once upon ");
  goOn.open();
  await until("both are complete", () => first() === "Why?|Once upon a time" && second() === "Once upon a time");
  console.log("React shows it");
}
process.exit();
