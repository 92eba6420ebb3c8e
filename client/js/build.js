// Builds dist/: the client and the producer as one file each, and their types. The two files are in the repository, so that
// the demo and the tests in Go run without npm; `node build.js --check` fails if they are not what the sources make.

import { execFileSync } from "node:child_process";
import { copyFileSync, readFileSync, rmSync } from "node:fs";
import { relative } from "node:path";
import { build } from "esbuild";

const options = {
  entryPoints: { megaphone: "src/index.ts", producer: "src/producer.ts" },
  outdir: "dist",
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  banner: { js: "// Megaphone, Apache-2.0. Made by npm run build in client/js." },
};

if (process.argv.includes("--check")) {
  const { outputFiles } = await build({ ...options, write: false });
  for (const { path, text } of outputFiles) {
    if (text !== readFileSync(path, "utf8")) {
      console.error(`${relative("", path)} is not what the sources make: run npm run build, and commit it`);
      process.exitCode = 1;
    }
  }
} else {
  rmSync("dist/types", { recursive: true, force: true });
  await build(options);
  execFileSync("node_modules/.bin/tsc", ["-p", "tsconfig.json"], { stdio: "inherit" });
  copyFileSync("../../LICENSE", "LICENSE");
}
