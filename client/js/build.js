// Builds dist/: each entry as one file, its source map, and its types. The files are in the repository, so that
// the demo and the tests in Go run without npm; `node build.js --check` fails if they are not what the sources make.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { relative } from "node:path";
import { build } from "esbuild";

const options = {
  entryPoints: {
    megaphone: "src/index.ts",
    producer: "src/producer.ts",
    sealed: "src/sealed.ts",
    react: "src/react.ts",
    shared: "src/shared.ts",
  },
  outdir: "dist",
  bundle: true,
  format: "esm",
  external: ["react"],
  target: "es2022",
  minify: true,
  sourcemap: true,
  legalComments: "none",
  banner: { js: "// Megaphone, Apache-2.0" },
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
  // The README shows how to load this build from a CDN, with its checksum.
  const { version } = JSON.parse(readFileSync("package.json", "utf8"));
  const sum = createHash("sha384").update(readFileSync("dist/megaphone.js")).digest("base64");
  const readme = readFileSync("README.md", "utf8");
  writeFileSync(
    "README.md",
    readme.replace(/client@[\d.]+\/dist/g, `client@${version}/dist`).replace(/sha384-[\w+/=]+/g, `sha384-${sum}`),
  );
}
