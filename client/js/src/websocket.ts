// Reading over a WebSocket, with acknowledgements.

import { MegaphoneError } from "./errors.js";
import { Watchdog } from "./timer.js";
import type { Sink, Target, Transport } from "./transport.js";

/** The client acknowledges after this many messages, or after this many milliseconds. */
const ackCount = 32;
const ackTime = 10;

/** The meaning of close codes. A code that is not here means that the network has failed. */
const codes: Record<number, MegaphoneError | null> = {
  1000: null, // the read has reached its duration
  1001: null, // another server or configuration takes over
  4400: new MegaphoneError("UNREADABLE", "the server does not understand this client"),
  4404: new MegaphoneError("NOT_FOUND", "the channel was deleted", { status: 404 }),
  4409: new MegaphoneError("TAKEN_OVER", "another consumer has taken over the channel"),
};

export const websocket: Transport = (target, sink, signal) =>
  new Promise<void>((resolve, reject) => {
    const ended = (error?: MegaphoneError | null) => (error ? reject(error) : resolve());
    new SocketRead(connect(target), target, sink, signal, ended);
  });

function connect({ url, WebSocket: Socket }: Target): WebSocket {
  if (!Socket) {
    throw new MegaphoneError("NO_START", "this platform has no WebSocket");
  }
  try {
    return new Socket(url.replace(/^http/, "ws"));
  } catch (cause) {
    // If a content security policy forbids the connection, some browsers throw here. Others close the WebSocket.
    throw new MegaphoneError("NO_START", "the page may not open a WebSocket", { cause });
  }
}

/** One read over a WebSocket. It calls ended exactly once, with an error unless the read has ended cleanly. */
class SocketRead {
  #socket: WebSocket;
  #target: Target;
  #sink: Sink;
  #signal: AbortSignal;
  #ended: (error?: MegaphoneError | null) => void;

  #open = false;
  #over = false;
  #newest: string; // the event id to acknowledge next
  #unacknowledged = 0; // how many messages have come since the last acknowledgement
  #timer: ReturnType<typeof setTimeout> | undefined; // for the next acknowledgement
  #watchdog: Watchdog;
  #abort = () => this.#finish();

  constructor(
    socket: WebSocket,
    target: Target,
    sink: Sink,
    signal: AbortSignal,
    ended: (error?: MegaphoneError | null) => void,
  ) {
    this.#socket = socket;
    this.#target = target;
    this.#sink = sink;
    this.#signal = signal;
    this.#ended = ended;
    this.#newest = target.cursor;
    // Scripts cannot see the server's pings, so a silent connection may be alive or dead. The client replaces it, which
    // loses nothing.
    this.#watchdog = new Watchdog(() =>
      this.#finish(
        this.#open
          ? null
          : new MegaphoneError("NO_START", `the WebSocket did not open within ${target.timeout / 1000} s`),
      ),
    );
    signal.addEventListener("abort", this.#abort);
    this.#watchdog.touch(target.timeout);
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onerror = () => {}; // a close event follows and says more
    socket.onclose = ({ code }) => this.#closed(code);
  }

  #finish(error?: MegaphoneError | null): void {
    if (this.#over) {
      return;
    }
    this.#over = true;
    this.#watchdog.stop();
    clearTimeout(this.#timer);
    this.#signal.removeEventListener("abort", this.#abort);
    this.#socket.close();
    this.#ended(error);
  }

  #opened(): void {
    if (this.#over) {
      return this.#socket.close();
    }
    this.#open = true;
    this.#watchdog.touch(this.#target.silence);
    this.#sink.opened(false);
    if (this.#newest) {
      void this.#acknowledge();
    }
  }

  #received(data: string): void {
    if (this.#over) {
      return;
    }
    this.#watchdog.touch(this.#target.silence);
    const first = !this.#newest;
    try {
      this.#newest = this.#sink.take(data);
    } catch (error) {
      return this.#finish(error as MegaphoneError);
    }
    if (first || ++this.#unacknowledged >= ackCount) {
      void this.#acknowledge();
    } else {
      this.#timer ??= setTimeout(() => this.#acknowledge(), ackTime);
    }
  }

  /** Acknowledges the newest message. After the first acknowledgement, the server's window limits what it sends. */
  async #acknowledge(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#unacknowledged = 0;
    const room = this.#sink.room();
    if (room) {
      this.#watchdog.stop(); // the server stays silent meanwhile
      await room;
    }
    if (!this.#over && this.#socket.readyState === 1) {
      this.#watchdog.touch(this.#target.silence);
      this.#socket.send(JSON.stringify({ ack: this.#newest }));
    }
  }

  #closed(code: number): void {
    if (!this.#open) {
      return this.#finish(new MegaphoneError("NO_START", "the WebSocket was refused"));
    }
    const meaning = codes[code];
    this.#finish(
      meaning === undefined ? new MegaphoneError("NETWORK", `the WebSocket closed with code ${code}`) : meaning,
    );
  }
}
