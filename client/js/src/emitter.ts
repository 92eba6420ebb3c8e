// Listeners of events.

type Handler = (value: any) => void;

/** A listener of an event. The handler is what is called: the listener, or for `once` a function that calls it. */
type Entry = [event: unknown, handler: Handler, listener: Handler];

/** Something with events. `Events` has the type of each event's value. */
export class Emitter<Events extends object> {
  #entries: Entry[] = [];
  #printed = new Set<unknown>();
  #debug: Debug | undefined;

  constructor(debug: boolean | Debug | undefined) {
    this.#debug = debug === true ? (...what) => console.debug("megaphone", ...what) : debug || undefined;
  }

  /** Calls a listener for each event of a kind. Returns a function that removes the listener. */
  on<E extends keyof Events>(event: E, listener: (value: Events[E]) => void): () => void {
    return this.#add(event, listener);
  }

  /** Calls a listener for the next event of a kind only. Returns a function that removes the listener. */
  once<E extends keyof Events>(event: E, listener: (value: Events[E]) => void): () => void {
    const remove = this.#add(
      event,
      (value) => {
        remove();
        listener(value);
      },
      listener,
    );
    return remove;
  }

  /** Removes a listener that `on` or `once` has added. */
  off<E extends keyof Events>(event: E, listener: (value: Events[E]) => void): void {
    this.#remove((entry) => entry[0] === event && entry[2] === listener);
  }

  /** Calls the listeners. If nobody listens to errors, the console gets the first of each code. */
  protected emit<E extends keyof Events>(event: E, value: Events[E]): void {
    this.debug(event as string, value);
    const entries = this.#entries.filter((entry) => entry[0] === event);
    if (event === "error" && !entries.length) {
      const { code } = Object(value);
      if (!this.#printed.has(code)) {
        this.#printed.add(code);
        console.error(value);
      }
    }
    entries.forEach((entry) => call(entry[1], value));
  }

  /** Logs, if the option `debug` is set. */
  protected debug(what: string, detail: unknown): void {
    call(this.#debug, what, detail);
  }

  #add(event: keyof Events, handler: Handler, listener = handler): () => void {
    const added: Entry = [event, handler, listener];
    this.#entries.push(added);
    return () => this.#remove((entry) => entry === added);
  }

  #remove(matches: (entry: Entry) => boolean): void {
    this.#entries = this.#entries.filter((entry) => !matches(entry));
  }
}

/** Gets what the option `debug` logs. */
export type Debug = (what: string, detail?: unknown) => void;

/** Calls a function of the page, if there is one. Reports what it throws as the platform reports uncaught errors. */
export function call<Values extends unknown[]>(
  listener: ((...values: Values) => void) | undefined,
  ...values: Values
): void {
  try {
    listener?.(...values);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}
