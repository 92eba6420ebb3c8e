// Text that arrives in chunks, cut anywhere, becomes the JSON texts of messages.

import { MegaphoneError } from "./errors.js";

/** The longest line, in characters. A server that sends more without a line feed is not one of ours. */
const maxLine = 64 << 20;

/** A parser of a stream of bytes. */
export interface Parser {
  /** Returns the texts that this chunk completes. */
  push(chunk: Uint8Array): string[];
  /** Returns what is left at a clean end. */
  end(): string[];
}

/** Splits at line feeds; a carriage return before one belongs to it. */
class Splitter {
  #decoder = new TextDecoder();
  #rest = "";

  push(chunk?: Uint8Array): string[] {
    const text = this.#decoder.decode(chunk, { stream: chunk !== undefined });
    if (!text.includes("\n")) {
      this.#rest += text; // without a look at what is there already: it may be long
      if (this.#rest.length > maxLine) {
        throw new MegaphoneError("UNREADABLE", "a line without an end");
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

/** One message on each line. */
export class NDJSON implements Parser {
  #splitter = new Splitter();

  push(chunk: Uint8Array): string[] {
    return this.#splitter.push(chunk).filter((line) => line.trim());
  }

  /** A last line without its line feed is whole if it is JSON, which the reader of the text finds out. */
  end(): string[] {
    return [this.#splitter.end()].filter((line) => line.trim());
  }
}

/** Server-sent events (WHATWG HTML, 9.2.6), of which only the data matters: it has the event's id too. */
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

  /** An event without its blank line does not count. */
  end(): string[] {
    return [];
  }
}
