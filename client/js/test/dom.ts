// A stand-in for a page, and bundles that run in it.

import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import type { TestContext } from "node:test";
import { build, type BuildOptions } from "esbuild";
import { Window } from "happy-dom";

/** Bundles source text and returns what it exports. */
export async function bundle(name: string, contents: string, options: BuildOptions = {}): Promise<any> {
  mkdirSync("build/bundles", { recursive: true });
  const outfile = resolve(`build/bundles/${name}.cjs`);
  await build({
    stdin: { contents, resolveDir: "test", loader: "tsx" },
    bundle: true,
    format: "cjs",
    platform: "node",
    conditions: ["browser"],
    jsx: "automatic",
    outfile,
    logLevel: "error",
    ...options,
  });
  return createRequire(import.meta.url)(outfile);
}

/** Makes this process look like a page of a site, until the test ends. */
export function page(t: TestContext, url: string): Document {
  const window = new Window({ url });
  const globals = globalThis as Record<string, unknown>;
  const before: Record<string, PropertyDescriptor | undefined> = {};
  const { fetch } = globalThis;
  const values: Record<string, unknown> = { window, IS_REACT_ACT_ENVIRONMENT: true };
  for (const name of [
    "document",
    "location",
    "navigator",
    "addEventListener",
    "removeEventListener",
    "Node",
    "Element",
    "Text",
  ]) {
    values[name] = (window as unknown as Record<string, unknown>)[name];
  }
  for (const name of ["HTMLElement", "HTMLIFrameElement", "SVGElement", "Comment", "DocumentFragment", "Event"]) {
    values[name] = (window as unknown as Record<string, unknown>)[name];
  }
  values.addEventListener = window.addEventListener.bind(window);
  values.MessageChannel = Channel;
  values.fetch = (path: string, request?: RequestInit) => fetch(new URL(path, url), request);
  for (const [name, value] of Object.entries(values)) {
    before[name] = Object.getOwnPropertyDescriptor(globals, name);
    Object.defineProperty(globals, name, { value, configurable: true, writable: true });
  }
  t.after(() => {
    for (const [name, descriptor] of Object.entries(before)) {
      descriptor ? Object.defineProperty(globals, name, descriptor) : delete globals[name];
    }
  });
  return window.document as unknown as Document;
}

/** What React needs of a MessageChannel. Node's own would keep the process running. */
class Channel {
  port1 = { onmessage: () => {} };
  port2 = { postMessage: () => setImmediate(() => this.port1.onmessage()) };
}
