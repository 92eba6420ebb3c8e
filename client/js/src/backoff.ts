// How long to wait after a fault.

/**
 * Waits after faults. The limit of the wait doubles with each fault. Each wait is drawn at random from the upper half
 * of the limit, so that clients do not all come back at once.
 */
export class Backoff {
  #min: number;
  #max: number;
  #faults = 0;

  constructor(min: number, max: number) {
    this.#min = min;
    this.#max = max;
  }

  /** Returns how many milliseconds to wait after one more fault. */
  next(): number {
    const ceiling = Math.min(this.#max, this.#min * 2 ** this.#faults++);
    return (ceiling * (1 + Math.random())) / 2;
  }

  /** Forgets the faults. Call it after something has worked. */
  reset(): void {
    this.#faults = 0;
  }
}
