// The error class for everything that can go wrong.

export interface ErrorDetails {
  /** The status of the reply, if there was a reply. */
  status?: number | undefined;
  /** How many milliseconds the server asks the client to wait. */
  retryAfter?: number | undefined;
  cause?: unknown;
}

/**
 * A fault in reading or writing. `code` comes from the server (`NOT_FOUND`, `BUSY`, …) or is one of this library's own:
 * `NETWORK` (no connection, or the connection broke), `STALLED` (the connection was silent for too long), `NO_START`
 * (the transport does not get through), `UNREADABLE` (the server sent something that is not a message), `TAKEN_OVER`
 * (another consumer reads the channel), `NO_CHANNEL` (the page's function did not create a channel), `HTTP` (the reply
 * does not come from a Megaphone server).
 */
export class MegaphoneError extends Error {
  readonly code: string;
  readonly status: number | undefined;
  readonly retryAfter: number | undefined;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message, { cause: details.cause });
    this.name = "MegaphoneError";
    this.code = code;
    this.status = details.status;
    this.retryAfter = details.retryAfter;
  }
}

/** Makes an error from a reply that refuses a request. */
export async function refusal(response: Response): Promise<MegaphoneError> {
  let code = "HTTP";
  let message = `the server replied with status ${response.status}`;
  try {
    const body = await response.json();
    if (typeof body?.code === "string") {
      code = body.code;
      message = `${body.message} (${code})`;
    }
  } catch {
    // The reply is not from Megaphone. It may be a proxy's page. The status says enough.
  }
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  return new MegaphoneError(code, message, {
    status: response.status,
    retryAfter: seconds >= 0 ? seconds * 1000 : undefined,
  });
}

/** Makes an error from anything that was thrown while a connection was in use. */
export function asFault(error: unknown): MegaphoneError {
  if (error instanceof MegaphoneError) {
    return error;
  }
  return new MegaphoneError("NETWORK", "the connection failed", { cause: error });
}
