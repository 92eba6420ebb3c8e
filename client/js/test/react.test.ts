// The hooks, with React 18 and 19.

import assert from "node:assert/strict";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";
import { Window } from "happy-dom";

import { Megaphone, type State } from "../src/index.js";
import { begin, frames, numbers, serve, text, until } from "./hostile.js";

const window = new Window();
for (const [name, value] of Object.entries({
  window,
  document: window.document,
  navigator: window.navigator,
  addEventListener: window.addEventListener.bind(window),
})) {
  Object.defineProperty(globalThis, name, { value, configurable: true });
}

type Page = typeof import("react") &
  Pick<typeof import("react-dom/client"), "createRoot" | "hydrateRoot"> &
  Pick<typeof import("react-dom/server"), "renderToString"> &
  Pick<typeof import("../src/react.js"), "megaphoneHooks">;
type Bodies = { s: number; t: string };

/** Returns React of a version, and the hooks built with it. */
async function page(version: string): Promise<Page> {
  const outfile = `build/react${version}.mjs`;
  const suffix = version === "19" ? "" : version;
  await build({
    stdin: {
      contents: `export { createElement, StrictMode, Suspense, version } from "react";
export { createRoot, hydrateRoot } from "react-dom/client";
export { renderToString } from "react-dom/server";
export { megaphoneHooks } from "./src/react.ts";`,
      resolveDir: process.cwd(),
    },
    bundle: true,
    format: "esm",
    platform: "node", // for the server's part, which then leaves nothing running
    banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
    define: { "process.env.NODE_ENV": '"development"' }, // with strict mode, which calls each effect twice
    alias: { react: `react${suffix}`, "react-dom": `react-dom${suffix}` },
    outfile,
  });
  return import(pathToFileURL(outfile).href);
}

for (const version of ["18", "19"]) {
  const loaded = page(version);

  test(`React ${version}: several components, strict mode, one channel and one connection`, async (t) => {
    const { createElement, createRoot, megaphoneHooks, StrictMode, version: actual } = await loaded;
    assert.ok(actual.startsWith(`${version}.`), actual);
    const { MegaphoneProvider, useConnection, useLatest, useMegaphone, useMessages } = megaphoneHooks<Bodies>();
    let write = (_n: number) => {};
    let open = 0;
    const { url, cursors } = await serve(t, ({ response }) => {
      begin(response, "ndjson");
      open++;
      response.on("close", () => open--);
      write = (n) => response.write(frames.ndjson.frame(text(n)));
      write(0);
    });
    let channels = 0;
    const made: Megaphone<Bodies>[] = [];
    const create = () => {
      const client = new Megaphone<Bodies>(url, () => `main.c${++channels}`, { transports: ["ndjson"] });
      made.push(client);
      t.after(() => client.close());
      return client;
    };
    const heard: string[] = [];
    function Latest() {
      return createElement("b", null, String(useLatest("s")?.body));
    }
    function Log({ name }: { name: string }) {
      useMessages("s", ({ body }) => heard.push(`${name}${body}`)); // a new listener each time
      const client = useMegaphone();
      return createElement("i", null, useConnection() + (client ? "" : "?"));
    }
    const draw = (name: string, more: boolean) =>
      root.render(
        createElement(
          StrictMode,
          null,
          createElement(
            MegaphoneProvider,
            { create },
            createElement(Log, { name }),
            createElement(Latest),
            more ? createElement(Latest) : null,
          ),
        ),
      );
    const element = document.createElement("div");
    const root = createRoot(element);
    const shows = (html: string) => until(`it shows ${html}, not ${element.innerHTML}`, () => element.innerHTML === html);
    draw("a", false);
    await shows("<i>open</i><b>0</b>");
    draw("b", true); // a component that comes later shows the newest message at once
    await shows("<i>open</i><b>0</b><b>0</b>");
    write(1);
    await shows("<i>open</i><b>1</b><b>1</b>");
    await until("the log has both", () => heard.length === 2);
    assert.deepEqual(heard, ["a0", "b1"]);
    assert.deepEqual([channels, cursors.length], [1, 1]);
    root.unmount();
    await until("the connection is closed", () => open === 0);
    assert.ok(made.every(({ state }) => state === "closed"));
  });

  test(`React ${version}: on a server nothing connects; the page then takes over what the server has drawn`, async (t) => {
    const { createElement, hydrateRoot, megaphoneHooks, renderToString } = await loaded;
    const { MegaphoneProvider, useConnection, useLatest } = megaphoneHooks<Bodies>();
    const { url } = await serve(t, ({ response }) => {
      begin(response, "ndjson");
      response.write(frames.ndjson.frame(text(5)));
    });
    let created = 0;
    const create = () => {
      created++;
      const client = new Megaphone<Bodies>(url, "main.c", { transports: ["ndjson"] });
      t.after(() => client.close());
      return client;
    };
    function Part() {
      return createElement("p", null, useConnection(), " ", String(useLatest("s")?.body));
    }
    const app = createElement(MegaphoneProvider, { create }, createElement(Part));
    const html = renderToString(app);
    assert.match(html, /idle.*undefined/);
    assert.equal(created, 0);
    const errors = t.mock.method(console, "error", () => {});
    const element = document.createElement("div");
    element.innerHTML = html;
    const root = hydrateRoot(element, app, { onRecoverableError: assert.fail });
    await until("it shows the message", () => element.textContent === "open 5");
    assert.equal(created, 1);
    assert.deepEqual(errors.mock.calls.map(({ arguments: [what] }) => what), []);
    root.unmount();
  });

  test(`React ${version}: while a component is suspended, no message is lost and no connection is added`, async (t) => {
    const { createElement, createRoot, megaphoneHooks, Suspense } = await loaded;
    const { MegaphoneProvider, useConnection, useMessages } = megaphoneHooks<Bodies>();
    const { url, cursors } = await serve(t, ({ response }) => {
      begin(response, "ndjson");
      response.write(numbers(3).map((n) => frames.ndjson.frame(text(n))).join(""));
    });
    const states: State[] = [];
    let load!: () => void;
    let ready = false;
    const loading = new Promise<void>((resolve) => (load = resolve)).then(() => void (ready = true));
    const heard: number[] = [];
    function Lazy() {
      if (!ready) {
        throw loading;
      }
      useMessages("s", ({ body }) => heard.push(body));
      return "loaded";
    }
    function Other() {
      useMessages("t", () => {});
      states.push(useConnection());
      return null;
    }
    const create = () => {
      const client = new Megaphone<Bodies>(url, "main.c", { transports: ["ndjson"] });
      t.after(() => client.close());
      return client;
    };
    const element = document.createElement("div");
    const root = createRoot(element);
    root.render(
      createElement(
        MegaphoneProvider,
        { create },
        createElement(Other),
        createElement(Suspense, { fallback: "loading" }, createElement(Lazy)),
      ),
    );
    await until("it is open", () => states.at(-1) === "open");
    assert.equal(element.textContent, "loading");
    load();
    await until("all has come", () => heard.length === 3);
    assert.deepEqual([element.textContent, heard, cursors.length], ["loaded", [0, 1, 2], 1]);
    root.unmount();
  });
}
