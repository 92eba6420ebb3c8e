// Builds dist/: the client and the producer as one file each, and their types. dist/megaphone.js is in the repository,
// so that the demo runs without Node; `node build.js --check` fails if it is not what the sources make.

import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, copyFileSync } from "node:fs";
import { build } from "esbuild";

const options = {
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  banner: { js: "// Megaphone's client, Apache-2.0. Made from client/js/src by npm run build." },
};

if (process.argv.includes("--check")) {
  const made = await build({ ...options, entryPoints: ["src/index.ts"], write: false });
  if (made.outputFiles[0].text !== readFileSync("dist/megaphone.js", "utf8")) {
    console.error("dist/megaphone.js is not what the sources make: run npm run build, and commit it");
    process.exitCode = 1;
  }
} else {
  rmSync("dist", { recursive: true, force: true });
  await build({ ...options, entryPoints: { megaphone: "src/index.ts", producer: "src/producer.ts" }, outdir: "dist" });
  execFileSync("node_modules/.bin/tsc", ["-p", "tsconfig.json"], { stdio: "inherit" });
  copyFileSync("../../LICENSE", "LICENSE");
}
