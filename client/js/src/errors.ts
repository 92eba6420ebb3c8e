// What can go wrong, as one kind of error.

export interface ErrorDetails {
  /** The status of the reply, where there was one. */
  status?: number | undefined;
  /** How many milliseconds the server asks to wait. */
  retryAfter?: number | undefined;
  cause?: unknown;
}

/**
 * A fault in reading or writing. `code` is the server's (`NOT_FOUND`, `BUSY`, …), or one of this library's own:
 * `NETWORK` (no connection, or it broke), `STALLED` (nothing was heard for too long), `NO_START` (the transport
 * does not get through), `UNREADABLE` (what came is no message), `TAKEN_OVER` (another consumer reads the channel),
 * `NO_CHANNEL` (the page's function has made none), `HTTP` (a reply that no Megaphone server has written).
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

/** Makes the error of a reply that refuses. */
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
    // Not from Megaphone: a proxy's page, perhaps. The status says enough.
  }
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  return new MegaphoneError(code, message, {
    status: response.status,
    retryAfter: seconds >= 0 ? seconds * 1000 : undefined,
  });
}

/** Makes an error of whatever was thrown while a connection was used. */
export function asFault(error: unknown): MegaphoneError {
  if (error instanceof MegaphoneError) {
    return error;
  }
  return new MegaphoneError("NETWORK", "the connection failed", { cause: error });
}
