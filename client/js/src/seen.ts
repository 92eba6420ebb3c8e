// Recognizes messages that are sent again.

/** How many event ids to remember. A server keeps fewer messages in flight (100 by default). */
const memory = 1024;

/** Remembers the newest event ids. */
export class Seen {
  #ids = new Set<string>();

  /** Reports whether the id is new, and remembers it. */
  add(id: string): boolean {
    if (this.#ids.has(id)) {
      return false;
    }
    this.#ids.add(id);
    if (this.#ids.size > memory) {
      const [oldest] = this.#ids; // a set keeps the order
      this.#ids.delete(oldest!);
    }
    return true;
  }
}
