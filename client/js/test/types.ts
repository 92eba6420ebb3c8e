// Types, checked by the compiler alone: npm test does not run this file. Each line after @ts-expect-error must not compile.

import * as v from "valibot";
import { z } from "zod";

import { Megaphone, type AnyMessage, type End, type Fault, type Listener, type Message } from "../src/index.js";
import { Producer } from "../src/producer.js";

interface News {
  headline: string;
}
interface Chat {
  from: string;
  text: string;
}
type Bodies = { news: News; chat: Chat };

declare function same<A>(): <B>(value: B) => [A, B] extends [B, A] ? true : never;
const typed = new Megaphone<Bodies>("/", "main.c");

typed.subscribe("news", ({ sid, body }) => {
  same<"news">()(sid) satisfies true;
  same<News>()(body) satisfies true;
  // @ts-expect-error: there is no such field
  body.text;
});
// @ts-expect-error: a misspelt stream id
typed.subscribe("nwes", () => {});
// @ts-expect-error: a misspelt stream id
typed.messages("nwes");
// @ts-expect-error: a listener for other bodies
typed.subscribe("news", (message: Message<Chat>) => message);
typed.subscribe("chat", () => {}, (end) => same<End<"chat">>()(end) satisfies true);

typed.subscribe((message) => {
  same<AnyMessage<Bodies>>()(message) satisfies true;
  if (message.sid === "chat") {
    same<Chat>()(message.body) satisfies true; // the stream id tells which body it is
  }
  // @ts-expect-error: it may be chat
  message.body.headline;
});

async () => {
  for await (const { body } of typed.messages("chat")) {
    same<Chat>()(body) satisfies true;
  }
  for await (const { sid } of typed.messages()) {
    same<"news" | "chat">()(sid) satisfies true;
  }
};

// Without types, any stream id will do, and bodies are any.
const loose = new Megaphone("/", "main.c");
loose.subscribe("anything", ({ body }) => body.whatever.it.has);
loose.subscribe<string>("anything", ({ sid }) => sid);
loose.subscribe(({ sid, body }) => [sid, body]);
const listener: Listener<string> = ({ body }) => body.length;
loose.subscribe("text", listener);

typed.on("error", (error) => same<Fault>()(error) satisfies true);
typed.on("missed", ({ missed }) => missed.toFixed());
typed.once("end", ({ end }) => same<"done" | "aborted">()(end) satisfies true);
typed.off("gap", () => {});
// @ts-expect-error: no such event
typed.on("message", () => {});

// Schemas of any library, for streams that there are, with the right type.
new Megaphone<Bodies>("/", "main.c", {
  schemas: {
    news: z.object({ headline: z.string() }),
    chat: v.object({ from: v.string(), text: v.string() }),
  },
});
new Megaphone<Bodies>("/", "main.c", {
  // @ts-expect-error: a schema for another type
  schemas: { news: z.object({ headline: z.number() }) },
});
new Megaphone<Bodies>("/", "main.c", {
  // @ts-expect-error: no such stream
  schemas: { nwes: z.any() },
});

new Megaphone("/", { url: "/events" }, { headers: async (fault) => ({ "X-Status": String(fault?.status) }) });
// @ts-expect-error: neither an address nor the reply of create
new Megaphone("/", { address: "main.c" });

const producer = new Producer("/");
void producer.write("main.p", "s", 1, { merge: "append" });
// @ts-expect-error: no such way to merge
void producer.write("main.p", "s", 1, { merge: "add" });
void producer.ingest([{ topic: "t", streamId: "s", body: 1 }]);
// @ts-expect-error: neither a channel nor a topic
void producer.ingest([{ streamId: "s", body: 1 }]);
