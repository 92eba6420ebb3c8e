// Parsers that turn chunks of text, cut anywhere, into the JSON texts of messages.

import { MegaphoneError } from "./errors.js";

/** The longest line, in characters. A Megaphone server never sends a longer one. */
const maxLine = 64 << 20;

/** A parser for a stream of bytes. */
export interface Parser {
  /** Returns the texts that this chunk completes. */
  push(chunk: Uint8Array): string[];
  /** Returns the texts that are left at a clean end of the stream. */
  end(): string[];
}

/** Splits text at line feeds. A carriage return before a line feed belongs to the line end. */
class Splitter {
  #decoder = new TextDecoder();
  #rest = "";

  push(chunk?: Uint8Array): string[] {
    const text = this.#decoder.decode(chunk, { stream: chunk !== undefined });
    if (!text.includes("\n")) {
      this.#rest += text; // does not search the rest again, because it may be long
      if (this.#rest.length > maxLine) {
        throw new MegaphoneError("UNREADABLE", "a line is too long: it has no line feed");
      }
      return [];
    }
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    return lines.map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line));
  }

  end(): string {
    this.push();
    return this.#rest;
  }
}

/** NDJSON: each line is a message. */
export class NDJSON implements Parser {
  #splitter = new Splitter();

  push(chunk: Uint8Array): string[] {
    return this.#splitter.push(chunk).filter((line) => line.trim());
  }

  /** Returns the last line even without a line feed. The caller finds out whether it is complete: then it is JSON. */
  end(): string[] {
    return [this.#splitter.end()].filter((line) => line.trim());
  }
}

/** Server-sent events (WHATWG HTML, 9.2.6). Only the data matters, because it has the event id too. */
export class SSE implements Parser {
  #splitter = new Splitter();
  #data: string[] = [];

  push(chunk: Uint8Array): string[] {
    const events: string[] = [];
    for (const line of this.#splitter.push(chunk)) {
      if (line === "") {
        if (this.#data.length > 0) {
          events.push(this.#data.join("\n"));
          this.#data = [];
        }
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return events;
  }

  /** Returns nothing: an event without its blank line does not count. */
  end(): string[] {
    return [];
  }
}
