// The examples of docs/frameworks.md, as they stand there.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test, type TestContext } from "node:test";
import type { Plugin } from "esbuild";
import { compile } from "svelte/compiler";
import { compileScript, parse } from "vue/compiler-sfc";

import type { Megaphone } from "../src/index.js";
import { bundle, page } from "./dom.js";
import { begin, serve, sleep, until } from "./hostile.js";

/** Returns the first example in a language. */
function example(language: string): string {
  const text = readFileSync("../../docs/frameworks.md", "utf8");
  const found = new RegExp(`\n\`\`\`${language}\n(.*?)\n\`\`\`\n`, "s").exec(text);
  assert.ok(found, `there is no example in ${language}`);
  return found[1]!;
}

/** Finds ./megaphone.js of the examples, and this package. */
const resolver: Plugin = {
  name: "examples",
  setup(build) {
    build.onResolve({ filter: /^\.\/megaphone\.js$/ }, ({ importer }) =>
      importer.includes("/src/") ? undefined : { path: "megaphone", namespace: "example" },
    );
    build.onLoad({ filter: /./, namespace: "example" }, () => ({ contents: example("js"), resolveDir: "test" }));
    build.onResolve({ filter: /^@caddy-megaphone\/client/ }, ({ path }) => {
      const [, , entry = "index"] = path.split("/");
      return { path: `${process.cwd()}/src/${entry}.ts` };
    });
  },
};

/** Serves channels and a stream of news. */
async function backend(t: TestContext) {
  let channels = 0;
  let reads = 0;
  let open = 0;
  let write = (_sid: string, _body: unknown) => {};
  const { url } = await serve(t, ({ request, response }) => {
    if (request.url === "/channel") {
      channels++;
      response.end('{"consumerAddress":"main.c"}');
      return;
    }
    reads++;
    open++;
    response.on("close", () => open--);
    begin(response, "sse");
    let eid = 0;
    write = (sid, body) =>
      response.write(`data: ${JSON.stringify({ sid, eid: `e${reads}-${eid++}`, ts: "", body })}\n\n`);
  });
  return { url, write: (sid: string, body: unknown) => write(sid, body), counts: () => ({ channels, reads, open }) };
}

const frameworks: Record<string, () => Promise<{ mount(target: Element): () => unknown; megaphone?(): Megaphone }>> = {
  React: async () => {
    const code = `
      import { createElement } from "react";
      import { createRoot } from "react-dom/client";
      ${example("jsx")}
      export const mount = (target) => {
        const root = createRoot(target);
        root.render(createElement(App));
        return () => root.unmount();
      };`;
    return bundle("example-react", code, { plugins: [resolver], jsx: "automatic" });
  },
  Vue: async () => {
    const { descriptor, errors } = parse(example("vue"));
    assert.deepEqual(errors, []);
    const { content } = compileScript(descriptor, { id: "example", inlineTemplate: true, genDefaultAs: "component" });
    const code = `${content}
      import { createApp } from "vue";
      export { megaphone };
      export const mount = (target) => {
        const app = createApp(component);
        app.mount(target);
        return () => app.unmount();
      };`;
    return bundle("example-vue", code, { plugins: [resolver] });
  },
  Svelte: async () => {
    const { js } = compile(example("svelte"), { generate: "client", filename: "Example.svelte", name: "Example" });
    const code = `${js.code.replace("export default function Example", "function Example")}
      import { mount as mountExample, unmount } from "svelte";
      export { megaphone };
      export const mount = (target) => {
        const component = mountExample(Example, { target });
        return () => unmount(component);
      };`;
    return bundle("example-svelte", code, { plugins: [resolver] });
  },
};

for (const [name, load] of Object.entries(frameworks)) {
  test(`the example for ${name} shows the news, and listens no more when it is gone`, async (t) => {
    const { url, write, counts } = await backend(t);
    const document = page(t, url);
    delete (globalThis as { IS_REACT_ACT_ENVIRONMENT?: unknown }).IS_REACT_ACT_ENVIRONMENT;
    const { WebSocket } = globalThis;
    t.after(() => void (globalThis.WebSocket = WebSocket));
    globalThis.WebSocket = undefined!;
    const { mount, megaphone } = await load();
    const target = document.body.appendChild(document.createElement("div"));
    const unmount = mount(target);
    const title = () => target.querySelector("h1")?.textContent;
    await until("it shows the page", () => title() === "No news");
    await until("it reads", () => counts().open === 1);
    write("news", { title: "Hello" });
    await until("it shows the news", () => title() === "Hello");
    if (name === "React") {
      write("chat", { text: "one" });
      write("chat", { text: "two" });
      await until("it shows the chat", () => target.querySelectorAll("p").length === 2);
    }
    assert.deepEqual(counts(), { channels: 1, reads: 1, open: 1 });
    await unmount();
    write("news", { title: "Too late" });
    await sleep(20);
    assert.equal(target.querySelector("h1"), null);
    megaphone?.().close();
  });
}
