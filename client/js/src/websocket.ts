// Reading over a WebSocket, with acknowledgements.

import { MegaphoneError } from "./errors.js";
import { Watchdog } from "./timer.js";
import type { Transport } from "./transport.js";

/** Messages are acknowledged when there are so many, or after so many milliseconds. */
const ackCount = 32;
const ackTime = 10;

/** What the close codes mean that do not mean that the network has failed. */
const codes: Record<number, MegaphoneError | null> = {
  1000: null, // the read has lasted its time
  1001: null, // another server, or configuration, serves from now on
  4400: new MegaphoneError("UNREADABLE", "the server does not understand this client"),
  4404: new MegaphoneError("NOT_FOUND", "the channel was deleted", { status: 404 }),
  4409: new MegaphoneError("TAKEN_OVER", "another consumer reads the channel now"),
};

export const websocket: Transport = (target, sink, signal) =>
  new Promise<void>((resolve, reject) => {
    const Socket = target.WebSocket;
    if (!Socket) {
      throw new MegaphoneError("NO_START", "there is no WebSocket here");
    }
    let socket: WebSocket;
    try {
      socket = new Socket(target.url.replace(/^http/, "ws"));
    } catch (cause) {
      // Some browsers throw what a content security policy forbids; others close.
      throw new MegaphoneError("NO_START", "there must be no WebSocket here", { cause });
    }
    let open = false;
    let over = false;
    let unacknowledged = 0;
    let newest = target.cursor;
    let timer: ReturnType<typeof setTimeout> | undefined;

    const finish = (error?: MegaphoneError | null) => {
      if (over) {
        return;
      }
      over = true;
      watchdog.stop();
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      socket.close();
      if (error) {
        reject(error);
      } else {
        resolve();
      }
    };
    const abort = () => finish();
    // The server's pings are not shown to scripts, so a silent connection may be alive, and may be dead. It is made
    // anew, which loses nothing.
    const watchdog = new Watchdog(() =>
      finish(open ? null : new MegaphoneError("NO_START", `no WebSocket within ${target.timeout / 1000} s`)),
    );
    signal.addEventListener("abort", abort);
    watchdog.touch(target.timeout);

    // From its first acknowledgement on, the server sends no more than its window without one.
    const acknowledge = async () => {
      clearTimeout(timer);
      timer = undefined;
      unacknowledged = 0;
      const room = sink.room();
      if (room) {
        watchdog.stop(); // the server will be silent
        await room;
      }
      if (!over && socket.readyState === 1) {
        watchdog.touch(target.silence);
        socket.send(JSON.stringify({ ack: newest }));
      }
    };

    socket.onopen = () => {
      if (over) {
        return socket.close();
      }
      open = true;
      watchdog.touch(target.silence);
      sink.opened(false);
      if (newest) {
        void acknowledge();
      }
    };
    socket.onmessage = ({ data }) => {
      if (over) {
        return;
      }
      watchdog.touch(target.silence);
      const first = !newest;
      try {
        newest = sink.take(data);
      } catch (error) {
        return finish(error as MegaphoneError);
      }
      if (first || ++unacknowledged >= ackCount) {
        void acknowledge();
      } else {
        timer ??= setTimeout(acknowledge, ackTime);
      }
    };
    socket.onerror = () => {}; // a close follows, and says more
    socket.onclose = ({ code }) => {
      if (!open) {
        return finish(new MegaphoneError("NO_START", "the WebSocket was refused"));
      }
      const meaning = codes[code];
      finish(meaning === undefined ? new MegaphoneError("NETWORK", `the WebSocket was closed with ${code}`) : meaning);
    };
  });
