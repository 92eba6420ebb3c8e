// The error class for everything that can go wrong.

import type { Message } from "./streams.js";

export interface ErrorDetails {
  /** The status of the reply, if there was a reply. */
  status?: number | undefined;
  /** How many milliseconds the server asks the client to wait. */
  retryAfter?: number | undefined;
  cause?: unknown;
  /** The message that the error is about, if it is about one. */
  received?: Message | undefined;
}

/**
 * A fault in reading or writing. `code` comes from the server (`NOT_FOUND`, `BUSY`, …) or is one of this library's own:
 * `NETWORK` (no connection, or the connection broke), `STALLED` (the connection was silent for too long), `NO_START`
 * (the transport does not get through), `UNREADABLE` (the server sent something that is not a message), `TAKEN_OVER`
 * (another consumer reads the channel), `NO_CHANNEL` (the page's function did not create a channel), `HTTP` (the reply
 * does not come from a Megaphone server), `REFUSED` (the server refused a WebSocket, for a reason that a browser hides),
 * `TIMEOUT` (also if a function of yours took too long), `INVALID` (`decode` or a schema did not accept the message
 * `received`), `ABORTED` (the producer of a stream died before the end).
 */
export class MegaphoneError extends Error {
  declare readonly code: string;
  declare readonly status: number | undefined;
  declare readonly retryAfter: number | undefined;
  declare readonly received: Message | undefined;

  constructor(code: string, message: string, { cause, ...details }: ErrorDetails = {}) {
    super(message, { cause });
    Object.assign(this, { name: "MegaphoneError", code, ...details });
  }
}

/** Makes an error from a reply that refuses a request, or that is not what was asked for. */
export async function refusal(response: Response): Promise<MegaphoneError> {
  const { status, headers, ok } = response;
  const type = headers.get("Content-Type");
  const where = response.url.replace(/(\/(read|write|topic|channel)\/|\?).*/, "$1…"); // without secrets
  let code = "HTTP";
  let message = `${where}: ${status} ${type} is not from Megaphone. Check the base URL and the site`;
  try {
    const body = !ok && (await response.json()); // a reply that is ok may be endless
    if (typeof body?.code === "string") {
      code = body.code;
      message = `${body.message} (${code})`;
    }
  } catch {
    if (/json/.test(type!)) {
      code = "REFUSED"; // this was a HEAD request, whose reply has no body
      message = `${where}: ${status}`;
    }
  }
  const seconds = parseFloat(headers.get("Retry-After")!);
  return new MegaphoneError(code, message, { status, retryAfter: seconds >= 0 ? seconds * 1000 : undefined });
}

/** Makes an error from anything that was thrown while a connection was in use. */
export function asFault(error: unknown): MegaphoneError {
  if (error instanceof MegaphoneError) {
    return error;
  }
  return new MegaphoneError("NETWORK", "the connection failed", { cause: error });
}
