// Waiting, on the clock that does not jump.

/** Calls back when it was not touched for a time. */
export class Watchdog {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #callback: () => void;

  constructor(callback: () => void) {
    this.#callback = callback;
  }

  /** Waits from now on for so many milliseconds. */
  touch(time: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#callback, time);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}

/** A wait that can be cut short. */
export class Pause {
  #end: (() => void) | undefined;

  /** Waits for so many milliseconds, or until it is ended. */
  async wait(time: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resolve) => {
      this.#end = resolve;
      if (time < Infinity) {
        timer = setTimeout(resolve, Math.min(time, 2 ** 31 - 1));
      }
    });
    clearTimeout(timer);
    this.#end = undefined;
  }

  /** Ends the wait, if there is one. */
  end(): void {
    this.#end?.();
  }
}
