// Tests of the published package.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const manifest = JSON.parse(readFileSync("package.json", "utf8"));

/** The largest sizes, in bytes, gzipped. */
const sizes = { megaphone: 5500, react: 1200, sealed: 1200 };

test("what is built is small, and is what the sources make", () => {
  execFileSync(process.execPath, ["build.js", "--check"], { stdio: "inherit" });
  for (const [name, most] of Object.entries(sizes)) {
    const size = gzipSync(readFileSync(`dist/${name}.js`), { level: 9 }).length;
    assert.ok(size <= most, `${name}: ${size} bytes`);
  }
});

test("each file has a source map, which has the sources", () => {
  for (const name of ["megaphone", "producer", "react", "sealed", "shared"]) {
    assert.match(readFileSync(`dist/${name}.js`, "utf8"), new RegExp(`\n//# sourceMappingURL=${name}.js.map\n$`));
    const { sources, sourcesContent } = JSON.parse(readFileSync(`dist/${name}.js.map`, "utf8"));
    sources.forEach((source: string, n: number) =>
      assert.equal(sourcesContent[n], readFileSync(join("dist", source), "utf8")),
    );
  }
});

test("the README's checksum and version for a CDN are those of the build", () => {
  const readme = readFileSync("README.md", "utf8");
  const sum = createHash("sha384").update(readFileSync("dist/megaphone.js")).digest("base64");
  assert.deepEqual(readme.match(/sha384-[\w+/=]+/g), [`sha384-${sum}`], "run npm run build");
  const versions = new Set(readme.match(/client@[\d.]+\//g));
  assert.deepEqual([...versions], [`client@${manifest.version}/`]);
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
  const entries = Object.values<{ types: string; default: string } | string>(manifest.exports).flatMap((entry) =>
    typeof entry === "string" ? [] : [entry.default, `${entry.default}.map`, entry.types],
  );
  for (const name of entries) {
    assert.ok(files.includes(name.slice(2)), `${name} is missing`);
  }
  const others = files.filter((file) => !entries.includes(`./${file}`) && !/^dist\/types\/\w+\.d\.ts$/.test(file));
  assert.deepEqual(others.sort(), ["LICENSE", "README.md", "package.json"]);
  assert.match(manifest.homepage, /^https:/);
  assert.match(manifest.bugs, /^https:/);

  const modules = join(dir, "node_modules", "@caddy-megaphone", "client");
  execFileSync("mkdir", ["-p", modules]);
  execFileSync("tar", ["-xzf", join(dir, pack.filename), "-C", modules, "--strip-components=1"]);
  writeFileSync(
    join(dir, "main.mts"),
    `import { Megaphone, type Message } from "@caddy-megaphone/client";
import { Producer } from "@caddy-megaphone/client/producer";
import { seal, unseal } from "@caddy-megaphone/client/sealed";
import { connect, share } from "@caddy-megaphone/client/shared";
import manifest from "@caddy-megaphone/client/package.json" with { type: "json" };
if (!manifest.version || !connect || !share) throw manifest;
const key = crypto.getRandomValues(new Uint8Array(32));
new Megaphone<{ n: number }>("http://localhost", "main.c", { decode: unseal({ key: () => key }) }).close();
seal(1, { key }).then((body) => body.length);
const megaphone: Megaphone = new Megaphone("http://localhost", "main.c");
const listener = (message: Message<string>): void => void message.body.length;
megaphone.subscribe("news", listener)();
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
