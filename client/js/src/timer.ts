// Waiting, on a clock that does not jump.

import { MegaphoneError } from "./errors.js";

/** Calls back if it is not touched for some time, or if a signal aborts. */
export class Watchdog {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #signal: AbortSignal;
  #callback: () => void;

  constructor(signal: AbortSignal, callback: () => void) {
    this.#signal = signal;
    this.#callback = callback;
    signal.addEventListener("abort", callback);
  }

  /** Restarts the wait, with this many milliseconds. */
  touch(time: number): void {
    this.pause();
    this.#timer = setTimeout(this.#callback, time);
  }

  /** Stops the wait until the next touch. */
  pause(): void {
    clearTimeout(this.#timer);
  }

  /** Ends the watchdog for good. */
  end(): void {
    this.pause();
    this.#signal.removeEventListener("abort", this.#callback);
  }
}

/** A wait that can end early. */
export class Pause {
  #end: (() => void) | undefined;

  /** Waits for this many milliseconds, or until end is called. Infinity waits for end only. */
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

/** Waits for a function of the application for this many milliseconds. Then throws an error that names the function. */
export function within<Value>(time = 30_000, name: string, value: Value | PromiseLike<Value>): Promise<Value> {
  const pause = new Pause();
  const late = pause.wait(time).then(() => {
    throw new MegaphoneError("TIMEOUT", `the function ${name}: no reply within ${time / 1000} s`);
  });
  return Promise.race([value, late]).finally(() => pause.end());
}

/** Waits until the signal aborts, and then throws. If the signal never aborts, waits forever. */
export function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener("abort", reject));
}
