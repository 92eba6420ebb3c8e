// Tests of the published package.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const manifest = JSON.parse(readFileSync("package.json", "utf8"));

test("the built client is at most 6 KB, gzipped, and is what the sources make", () => {
  execFileSync(process.execPath, ["build.js", "--check"], { stdio: "inherit" });
  const size = gzipSync(readFileSync("dist/megaphone.js"), { level: 9 }).length;
  assert.ok(size <= 6000, `${size} bytes`);
});

test("the package has the files it names, depends on nothing, and works when installed", (t) => {
  assert.equal(manifest.dependencies, undefined);
  assert.equal(manifest.license, "Apache-2.0");
  const dir = mkdtempSync(join(tmpdir(), "megaphone-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const [pack] = JSON.parse(
    String(execFileSync("npm", ["pack", "--json", "--pack-destination", dir], { stdio: ["ignore", "pipe", "ignore"] })),
  );
  const files: string[] = pack.files.map(({ path }: { path: string }) => path);
  for (const name of ["LICENSE", "README.md", "package.json"]) {
    assert.ok(files.includes(name), `${name} is missing`);
  }
  for (const { types, default: code } of Object.values<{ types: string; default: string }>(manifest.exports)) {
    assert.ok(files.includes(types.slice(2)) && files.includes(code.slice(2)), `${types} or ${code} is missing`);
  }
  assert.ok(!files.some((file) => /^(src|test|build|node_modules)\//.test(file)), String(files));

  const modules = join(dir, "node_modules", "@caddy-megaphone", "client");
  execFileSync("mkdir", ["-p", modules]);
  execFileSync("tar", ["-xzf", join(dir, pack.filename), "-C", modules, "--strip-components=1"]);
  writeFileSync(
    join(dir, "main.mts"),
    `import { Megaphone, type Message } from "@caddy-megaphone/client";
import { Producer } from "@caddy-megaphone/client/producer";
const megaphone: Megaphone = new Megaphone("http://localhost", "main.c");
const listener = (message: Message<string>): void => void message.body.length;
megaphone.subscribe<string>("news", listener)();
megaphone.close();
new Producer("http://localhost");
`,
  );
  const tsc = [
    "--strict",
    "--module",
    "nodenext",
    "--target",
    "es2022",
    "--lib",
    "es2022,dom,dom.asynciterable",
    "--types",
    "",
  ];
  execFileSync(join(process.cwd(), "node_modules/.bin/tsc"), [...tsc, "main.mts"], { cwd: dir, stdio: "inherit" });
  execFileSync(process.execPath, ["main.mjs"], { cwd: dir, stdio: "inherit" });
});

test("the lockfile names no registry", () => {
  assert.doesNotMatch(readFileSync("package-lock.json", "utf8"), /"resolved"/);
});
