// End to end encryption: bodies that neither the server nor its store can read. A sealed body is a string, a JWE in the
// compact form (RFC 7516) with the algorithms `dir` and `A256GCM`. Any JOSE library makes one.

/** A key of 256 bits. */
export type Key = CryptoKey | Uint8Array<ArrayBuffer>;

export interface UnsealOptions {
  /**
   * Returns the key with this id (`kid`), or a promise of it, within 20 seconds. A message without a key id asks for
   * `undefined`.
   */
  key: (kid: string | undefined) => Key | Promise<Key>;
  /** The streams whose bodies are not sealed. A body of any other stream must be sealed. */
  plain?: readonly string[];
}

export interface SealOptions {
  key: Key;
  /** The id of the key, for readers. */
  kid?: string;
  /** The stream that the body is for. With it, nobody can put the body into another stream. */
  sid?: string;
}

/** Returns a function for the option `decode` of the client: it opens sealed bodies. */
export function unseal({ key, plain = [] }: UnsealOptions): (message: { sid: string; body: unknown }) => unknown {
  return async ({ sid, body }) => {
    if (plain.includes(sid)) {
      return body;
    }
    const [protectedHeader, encryptedKey, ...rest] = typeof body === "string" ? body.split(".") : [];
    if (rest.length !== 3 || encryptedKey) {
      throw new Error("the body is not sealed");
    }
    const header = JSON.parse(text.decode(bytes(protectedHeader!)));
    if (header.alg !== "dir" || header.enc !== "A256GCM" || header.zip || header.crit) {
      throw new Error("the body is not sealed with dir and A256GCM");
    }
    if (header.sid !== undefined && header.sid !== sid) {
      throw new Error("the body was sealed for another stream");
    }
    return JSON.parse(text.decode(await open(protectedHeader!, rest, checked(await waited(key(header.kid))))));
  };
}

/** Seals a body: any JSON value. Write what it returns. */
export async function seal(body: unknown, { key, ...more }: SealOptions): Promise<string> {
  const header = base64(encoder.encode(JSON.stringify({ alg: "dir", enc: "A256GCM", ...more })));
  const iv = crypto.getRandomValues(new Uint8Array(12));
  const sealed = new Uint8Array(
    await crypto.subtle.encrypt(parameters(iv, header), await imported(checked(key)), encoder.encode(JSON.stringify(body))),
  );
  return [header, "", base64(iv), base64(sealed.subarray(0, -16)), base64(sealed.subarray(-16))].join(".");
}

/** Decrypts AES-GCM: the initialization vector, the ciphertext and the tag, each in Base64url. */
export async function open(header: string, parts: string[], key: Key): Promise<ArrayBuffer> {
  const [iv, ciphertext, tag] = parts.map(bytes) as [Bytes, Bytes, Bytes];
  // A shorter tag would be easier to forge, and with no tag a part of the ciphertext would be taken for one.
  if (iv.length !== 12 || tag.length !== 16) {
    throw new Error("the sealed body is malformed");
  }
  const sealed = new Uint8Array(ciphertext.length + tag.length);
  sealed.set(ciphertext);
  sealed.set(tag, ciphertext.length);
  try {
    return await crypto.subtle.decrypt(parameters(iv, header), await imported(key), sealed);
  } catch (cause) {
    throw new Error("the body was sealed with another key, or was changed", { cause });
  }
}

type Bytes = Uint8Array<ArrayBuffer>;

const text = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

function parameters(iv: Bytes, header: string): AesGcmParams {
  return { name: "AES-GCM", iv, additionalData: encoder.encode(header) };
}

/** How long a key may take, in milliseconds. */
const patience = 20_000;

/** Waits for a key from the application, but not forever. */
function waited(key: Key | Promise<Key>): Promise<Key> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("the function key: no reply within 20 s")), patience);
  });
  return Promise.race([key, late]).finally(() => clearTimeout(timer));
}

/** Returns the key if it has 256 bits: A256GCM allows no other. */
function checked(key: Key): Key {
  const bits = key instanceof Uint8Array ? key.length * 8 : (key?.algorithm as AesKeyAlgorithm | undefined)?.length;
  if (bits !== 256) {
    throw new Error(key ? "the key must have 256 bits" : "there is no key");
  }
  return key;
}

async function imported(key: Key): Promise<CryptoKey> {
  return key instanceof Uint8Array ? crypto.subtle.importKey("raw", key, "AES-GCM", false, ["encrypt", "decrypt"]) : key;
}

function bytes(base64url: string): Bytes {
  const standard = base64url.replace(/-/g, "+").replace(/_/g, "/");
  return Uint8Array.from(atob(standard), (character) => character.charCodeAt(0));
}

function base64(bytes: Uint8Array): string {
  const standard = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return standard.replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
}
