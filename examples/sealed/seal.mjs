// Prints a sealed body, with jose. KEY is the key, 32 bytes in hexadecimal.

import { CompactEncrypt } from "jose";

const body = new TextEncoder().encode(JSON.stringify({ text: "grüße" }));
const sealed = await new CompactEncrypt(body)
  .setProtectedHeader({ alg: "dir", enc: "A256GCM", kid: "2026", sid: "news" }) // sid: the stream it is for
  .encrypt(Buffer.from(process.env.KEY, "hex"));
console.log(sealed); // write it as a JSON string
