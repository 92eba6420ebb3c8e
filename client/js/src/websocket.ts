// Reading over a WebSocket, with acknowledgements.

import { MegaphoneError } from "./errors.js";
import { Watchdog } from "./timer.js";
import type { Target, Transport } from "./transport.js";

/** The client acknowledges after this many messages, or after this many milliseconds. */
const ackCount = 32;
const ackTime = 10;

/** The error codes of close codes. With another code, the network has failed. */
const codes: Record<number, string> = {
  4400: "UNREADABLE", // the server does not understand this client
  4404: "NOT_FOUND", // the channel was deleted
  4409: "TAKEN_OVER", // another consumer has taken over the channel
};

export const websocket: Transport = (target, sink, signal) =>
  new Promise<void>((resolve, reject) => {
    const socket = connect(target);
    let open = false;
    let over = false;
    let newest = target.cursor; // the event id to acknowledge next
    let unacknowledged = 0; // how many messages have come since the last acknowledgement
    let timer: ReturnType<typeof setTimeout> | undefined; // for the next acknowledgement

    const finish = (error?: unknown) => {
      over = true;
      watchdog.end();
      clearTimeout(timer);
      socket.close();
      error ? reject(error) : resolve(); // only the first call has an effect
    };
    // Scripts cannot see the server's pings, so a silent connection may be alive or dead. The client replaces it, which
    // loses nothing.
    const watchdog = new Watchdog(signal, () =>
      finish(open ? undefined : new MegaphoneError("NO_START", `no reply within ${target.timeout / 1000} s`)),
    );
    // After the first acknowledgement, the server's window limits what it sends.
    const acknowledge = async () => {
      clearTimeout(timer);
      timer = undefined;
      unacknowledged = 0;
      const eid = newest; // newer messages may come during the wait
      const room = sink.room();
      if (room) {
        watchdog.pause(); // the server stays silent meanwhile
        await room;
      }
      if (!over && socket.readyState === 1) {
        watchdog.touch(target.silence);
        socket.send(JSON.stringify({ ack: eid }));
      }
    };

    watchdog.touch(target.timeout);
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
        return finish(error);
      }
      if (first || ++unacknowledged >= ackCount) {
        void acknowledge();
      } else {
        timer ??= setTimeout(acknowledge, ackTime);
      }
    };
    socket.onerror = () => {}; // a close event follows and says more
    socket.onclose = (event) =>
      finish(open ? meaning(event) : new MegaphoneError("NO_START", "the WebSocket was refused"));
  });

/** Returns the fault that has closed a WebSocket, or undefined for a clean end. */
function meaning({ code, reason }: CloseEvent): MegaphoneError | undefined {
  if (code <= 1001) {
    return undefined; // the read has reached its duration, or another server or configuration takes over
  }
  const status = code === 4404 ? 404 : undefined;
  return new MegaphoneError(codes[code] ?? "NETWORK", `the WebSocket closed: ${code} ${reason}`, { status });
}

function connect({ url, protocols, WebSocket: Socket }: Target): WebSocket {
  try {
    return new Socket!(url.replace(/^http/, "ws"), protocols);
  } catch (cause) {
    // The platform has no WebSocket, or a content security policy forbids it: then some browsers throw here, and others
    // close the WebSocket.
    throw new MegaphoneError("NO_START", "cannot open a WebSocket", { cause });
  }
}
