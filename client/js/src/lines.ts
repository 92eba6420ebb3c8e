// Turns chunks of bytes, cut anywhere, into the JSON texts of messages.

import { MegaphoneError } from "./errors.js";

/** The longest line, in characters. A Megaphone server never sends a longer one. */
const maxLine = 64 << 20;

/** A parser for NDJSON, where each line is a message, or for server-sent events. */
export class Parser {
  #events: boolean;
  #decoder = new TextDecoder();
  #rest = ""; // the beginning of a line
  #data: string[] = []; // the beginning of an event

  constructor(events: boolean) {
    this.#events = events;
  }

  /** Returns the texts that this chunk completes. */
  push(chunk: Uint8Array): string[] {
    const text = this.#decoder.decode(chunk, { stream: true });
    if (!text.includes("\n")) {
      this.#rest += text; // does not search the rest again, because it may be long
      if (this.#rest.length > maxLine) {
        throw new MegaphoneError("UNREADABLE", "a line is too long");
      }
      return [];
    }
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    return lines.flatMap((line) => this.#line(line));
  }

  /**
   * Returns the texts that are left at a clean end. Of NDJSON, that is the last line even without a line feed: the caller
   * finds out whether it is complete. Of server-sent events, it is nothing: an event without its blank line does not
   * count.
   */
  end(): string[] {
    this.#rest += this.#decoder.decode();
    return this.#events ? [] : this.#line(this.#rest);
  }

  /** Returns the text that a line completes. Of events (WHATWG HTML, 9.2.6), only the data matters. */
  #line(line: string): string[] {
    if (!this.#events) {
      return line.trim() ? [line] : [];
    }
    line = line.replace(/\r$/, "");
    if (line.startsWith("data:")) {
      this.#data.push(line.slice(line[5] === " " ? 6 : 5));
    }
    const complete = line === "" && this.#data.length > 0;
    return complete ? [this.#data.splice(0).join("\n")] : [];
  }
}
