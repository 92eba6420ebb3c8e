// End to end encryption: vectors, bodies of other libraries, and what must not be opened.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, rmSync } from "node:fs";
import { test } from "node:test";
import { CompactEncrypt, compactDecrypt, base64url } from "jose";

import { open, seal, unseal } from "../src/sealed.js";
import type { Fault } from "../src/index.js";
import { begin, client, serve, text, until } from "./hostile.js";

const key = new Uint8Array(32).map((_, n) => n);
const other = new Uint8Array(32).fill(7);

test("RFC 7516, A.1: the content is what the RFC says", async () => {
  const cek = Uint8Array.from([
    177, 161, 244, 128, 84, 143, 225, 115, 63, 180, 3, 255, 107, 154, 212, 246, 138, 7, 110, 91, 112, 46, 34, 105, 47,
    130, 203, 46, 122, 234, 64, 252,
  ]);
  const parts = [
    "48V1_ALb6US04U3b",
    "5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A",
    "XFBoMYUZodetZdvTiFvSkQ",
  ];
  const header = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ";
  const want = "The true sign of intelligence is not knowledge but imagination.";
  assert.equal(new TextDecoder().decode(await open(header, parts, cek)), want);
  // Its key is encrypted with RSA: the client opens no such bodies.
  await assert.rejects(async () => unseal({ key: () => cek })({ sid: "s", body: [header, "", ...parts].join(".") }), /dir/);
});

test("RFC 7520, 5.6: the content is what the RFC says; but its cipher is not ours", async () => {
  const jwe =
    "eyJhbGciOiJkaXIiLCJraWQiOiI3N2M3ZTJiOC02ZTEzLTQ1Y2YtODY3Mi02MTdiNWI0NTI0M2EiLCJlbmMiOiJBMTI4R0NNIn0..refa467QzzKx6QAB." +
    "JW_i_f52hww_ELQPGaYyeAB6HYGcR559l9TYnSovc23XJoBcW29rHP8yZOZG7YhLpT1bjFuvZPjQS-m0IFtVcXkZXdH_lr_FrdYt9HRUYkshtrMmIUAyGmUn" +
    "d9zMDB2n0cRDIHAzFVeJUDxkUwVAE7_YGRPdcqMyiBoCO-FBdE-Nceb4h3-FtBP-c_BIwCPTjb9o0SbdcdREEMJMyZBH8ySWMVi1gPD9yxi-aQpGbSv_F9N4" +
    "IZAxscj5g-NJsUPbjk29-s7LJAGb15wEBtXphVCgyy53CoIKLHHeJHXex45Uz9aKZSRSInZI-wjsY0yu3cT4_aQ3i1o-tiE-F8Ios61EKgyIQ4CWao8PFMj8T" +
    "Tnp.vbb32Xvllea2OtmHAdccRQ";
  const short = new Uint8Array(base64url.decode("XctOhJAkA-pD9Lh7ZgW_2A"));
  const [header, , ...parts] = jwe.split(".");
  const plain = new TextDecoder().decode(await open(header!, parts, short));
  assert.ok(plain.startsWith("You can trust us to stick with you through thick and thin"), plain);
  await assert.rejects(async () => unseal({ key: () => short })({ sid: "s", body: jwe }), /A256GCM/);
});

const producers: Record<string, string[]> = {
  Go: ["go", "run", "./examples/sealed/go"],
  Python: ["python3", "examples/sealed/seal.py"],
  Node: ["node", "client/js/build/seal.mjs"],
  PHP: ["php", "examples/sealed/seal.php"],
};
for (const [language, [command, ...args]] of Object.entries(producers)) {
  test(`the client opens a body that the example in ${language} has sealed`, async (t) => {
    copyFileSync("../../examples/sealed/seal.mjs", "build/seal.mjs"); // where Node finds the library
    const env = { ...process.env, KEY: Buffer.from(key).toString("hex") };
    const { stdout, stderr, status, error } = spawnSync(command!, args, { cwd: "../..", env, encoding: "utf8" });
    if (error || stderr.includes("ModuleNotFoundError")) {
      return t.skip(`${command}, or its library, is not installed`);
    }
    assert.equal(status, 0, stderr);
    const asked: unknown[] = [];
    const keys = (kid?: string) => {
      asked.push(kid);
      return key;
    };
    assert.deepEqual(await unseal({ key: keys })({ sid: "news", body: stdout.trim() }), { text: "grüße" });
    assert.deepEqual(asked, ["2026"]);
    await assert.rejects(async () => unseal({ key: keys })({ sid: "other", body: stdout.trim() }), /another stream/);
    // It is a JWE for others too: not every example uses a JOSE library.
    const { plaintext, protectedHeader } = await compactDecrypt(stdout.trim(), key);
    assert.deepEqual(JSON.parse(new TextDecoder().decode(plaintext)), { text: "grüße" });
    assert.deepEqual(protectedHeader, { alg: "dir", enc: "A256GCM", kid: "2026", sid: "news" });
  });
}

test("what seal makes, another library opens, and so does unseal, with any key of 256 bits", async () => {
  const imported = await crypto.subtle.importKey("raw", key, "AES-GCM", false, ["encrypt", "decrypt"]);
  for (const body of [null, "", "x".repeat(1 << 20), { a: ["ü", 1] }]) {
    for (const with_ of [key, imported]) {
      const sealed = await seal(body, { key: with_, kid: "k", sid: "s" });
      const { plaintext, protectedHeader } = await compactDecrypt(sealed, key);
      assert.deepEqual(JSON.parse(new TextDecoder().decode(plaintext)), body);
      assert.deepEqual(protectedHeader, { alg: "dir", enc: "A256GCM", kid: "k", sid: "s" });
      assert.deepEqual(await unseal({ key: async () => with_ })({ sid: "s", body: sealed }), body);
    }
  }
  await assert.rejects(seal(1, { key: key.subarray(16) }), /256 bits/);
});

test("what must not be opened", async () => {
  const jose = (header: object, secret = key) =>
    new CompactEncrypt(new TextEncoder().encode("1")).setProtectedHeader(header as never).encrypt(secret);
  const good = await seal(1, { key, sid: "s" });
  const [header, , iv, ciphertext, tag] = good.split(".") as [string, string, string, string, string];
  const forged = base64url.encode(JSON.stringify({ alg: "dir", enc: "A256GCM" })); // without the stream
  const opener = unseal({ key: (kid) => (kid === "gone" ? (undefined as never) : key), plain: ["plain"] });
  const bad: Record<string, [unknown, RegExp]> = {
    "a plain body": [{ n: 1 }, /not sealed/],
    "a plain text": ["hello", /not sealed/],
    "a JWS": ["a.b.c", /not sealed/],
    "an encrypted key": [`${header}.x.${iv}.${ciphertext}.${tag}`, /not sealed/],
    "another key": [await seal(1, { key: other }), /another key/],
    "a key id that nobody knows": [await seal(1, { key, kid: "gone" }), /no key/],
    "a key that is wrapped": [await jose({ alg: "A256KW", enc: "A256GCM" }), /not sealed/],
    "another stream's body": [await seal(1, { key, sid: "t" }), /another stream/],
    "another header": [`${forged}..${iv}.${ciphertext}.${tag}`, /was changed/],
    "another text": [`${header}..${iv}.AAAA.${tag}`, /was changed/],
    "a tag that is cut short": [`${header}..${iv}.${ciphertext}.${tag.slice(0, 16)}`, /malformed/],
    "no tag": [`${header}..${iv}.${ciphertext}${tag}.`, /malformed/],
    "a long initialization vector": [`${header}..${iv}AAAA.${ciphertext}.${tag}`, /malformed/],
    "a header that must be understood": [
      await new CompactEncrypt(new TextEncoder().encode("1"))
        .setProtectedHeader({ alg: "dir", enc: "A256GCM", crit: ["exp"], exp: 1 } as never)
        .encrypt(key, { crit: { exp: true } }),
      /not sealed/,
    ],
  };
  for (const [what, [body, error]] of Object.entries(bad)) {
    await assert.rejects(async () => opener({ sid: "s", body }), error, what);
  }
  assert.deepEqual(await opener({ sid: "plain", body: { n: 1 } }), { n: 1 });
  assert.equal(await opener({ sid: "s", body: good }), 1);
});

test("sealed and plain streams in one channel; keys change; what cannot be opened is an error of that message", async (t) => {
  const bodies = [
    await seal("a", { key, kid: "1" }),
    await seal("b", { key: other, kid: "2" }),
    await seal("c", { key: other, kid: "1" }),
    "not sealed",
    await seal("d", { key, kid: "1" }),
  ];
  const { url, cursors } = await serve(t, ({ response }) => {
    begin(response, "ndjson");
    response.write(bodies.map((body, n) => text(n, body) + "\n").join("") + text(9, "z").replace('"s"', '"open"') + "\n");
  });
  const keys: Record<string, Uint8Array<ArrayBuffer>> = { 1: key, 2: other };
  const megaphone = client(t, url, {
    transports: ["ndjson"],
    decode: unseal({ key: async (kid) => keys[kid!]!, plain: ["open"] }),
  });
  const errors: Fault[] = [];
  const got: unknown[] = [];
  megaphone.on("error", (error) => errors.push(error));
  megaphone.subscribe(({ sid, body }) => got.push([sid, body]));
  await until("all has come", () => got.length === 4);
  assert.deepEqual(got, [["s", "a"], ["s", "b"], ["s", "d"], ["open", "z"]]);
  assert.deepEqual(errors.map(({ code, received }) => [code, received?.eid]), [["INVALID", "e2"], ["INVALID", "e3"]]);
  assert.equal(cursors.length, 1);
  rmSync("build/seal.mjs", { force: true });
});
