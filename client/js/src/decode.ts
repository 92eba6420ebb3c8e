// What happens to a message's body before a listener gets it: the options `decode` and `schemas`.

import { MegaphoneError } from "./errors.js";
import { within } from "./timer.js";
import type { End, Message } from "./streams.js";

/** A schema of any library that follows Standard Schema (https://standardschema.dev): Zod, Valibot, ArkType, … */
export interface Schema<Body = unknown> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown, ...options: any[]) => Result<Body> | Promise<Result<Body>>;
    readonly types?: { readonly input: unknown; readonly output: Body } | undefined;
  };
}

type Result<Body> =
  | { readonly value: Body; readonly issues?: undefined }
  | { readonly issues: readonly { readonly message: string }[] };

/** What decodes bodies. */
export interface Decoding {
  decode?: ((message: Message<unknown>) => unknown) | undefined;
  schemas?: object | undefined;
  patience?: number | undefined;
}

/** Returns the body that a listener gets. Throws an error with the code INVALID if there is none. */
export async function decode(
  message: Message<unknown> & Partial<End>,
  { decode, schemas, patience }: Decoding,
): Promise<unknown> {
  try {
    if (message.end) {
      return null;
    }
    const body = decode ? await within(patience, "decode", decode(message)) : message.body;
    const schema = Object.hasOwn(schemas ?? {}, message.sid) && (schemas as Record<string, Schema>)[message.sid];
    if (!schema) {
      return body;
    }
    const result = await within(patience, "schemas", schema["~standard"].validate(body));
    if (result.issues) {
      throw new Error(result.issues.map(({ message }) => message).join("; "));
    }
    return result.value;
  } catch (cause) {
    const text = `a message of the stream ${message.sid} was dropped: ${(cause as Error)?.message}`;
    throw new MegaphoneError("INVALID", text, { cause, received: message });
  }
}
