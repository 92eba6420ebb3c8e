import assert from "node:assert/strict";
import { test } from "node:test";

import { Parser } from "../src/lines.js";

const messages = ['{"body":"Grüße, 世界 🎉"}', '{"body":2}', '{"body":"\\n"}'];

const streams: Record<string, { parser: () => Parser; text: string }> = {
  NDJSON: { parser: () => new Parser(false), text: messages.join("\n") + "\n" },
  "NDJSON with CRLF": { parser: () => new Parser(false), text: messages.join("\r\n") + "\r\n" },
  "NDJSON with blank lines": { parser: () => new Parser(false), text: "\n" + messages.join("\n\r\n \n") + "\n\n" },
  "NDJSON without the last line feed": { parser: () => new Parser(false), text: messages.join("\n") },
  SSE: { parser: () => new Parser(true), text: messages.map((m) => `id: 1\ndata: ${m}\n\n`).join("") },
  "SSE with CRLF": { parser: () => new Parser(true), text: messages.map((m) => `id: 1\r\ndata: ${m}\r\n\r\n`).join("") },
  "SSE with comments": {
    parser: () => new Parser(true),
    text: "retry: 1000\n:\n" + messages.map((m) => `: data: no\nevent: x\ndata:${m}\nid\n\n:\n:\n\n:\n`).join(""),
  },
  "SSE with data on several lines": {
    parser: () => new Parser(true),
    text: messages
      .map(
        (m) =>
          m
            .replace(/^\{/, "{\n")
            .split("\n")
            .map((line) => `data: ${line}\n`)
            .join("") + "\n",
      )
      .join(""),
  },
};

function parse(parser: Parser, chunks: Uint8Array[]): unknown[] {
  return [...chunks.flatMap((chunk) => parser.push(chunk)), ...parser.end()].map((text) => JSON.parse(text));
}

for (const [name, { parser, text }] of Object.entries(streams)) {
  const bytes = new TextEncoder().encode(text);
  const want = messages.map((message) => JSON.parse(message));

  test(`${name}, cut in two at every byte`, () => {
    for (let i = 0; i <= bytes.length; i++) {
      assert.deepEqual(parse(parser(), [bytes.subarray(0, i), bytes.subarray(i)]), want, `cut at ${i}`);
    }
  });

  test(`${name}, a byte at a time`, () => {
    assert.deepEqual(
      parse(
        parser(),
        [...bytes].map((byte) => Uint8Array.of(byte)),
      ),
      want,
    );
  });
}

test("an event without its blank line does not count", () => {
  const parser = new Parser(true);
  assert.deepEqual(parser.push(new TextEncoder().encode("data: 1\n\ndata: 2\n")), ["1"]);
  assert.deepEqual(parser.end(), []);
});

test("a line without an end is refused before it fills memory", () => {
  const parser = new Parser(false);
  const chunk = new Uint8Array(8 << 20).fill(0x20);
  assert.throws(
    () => {
      for (let i = 0; i < 10; i++) {
        parser.push(chunk);
      }
    },
    { code: "UNREADABLE" },
  );
});
