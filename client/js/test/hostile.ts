// A server for the tests. It does to the client whatever a test wants.

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";
import { WebSocketServer, type WebSocket } from "ws";

import { Megaphone, type Options } from "../src/index.js";

/** A request to read, as the server sees it. */
export interface Read {
  request: IncomingMessage;
  response: ServerResponse;
  /** The number of the request, from 0. */
  number: number;
  address: string;
  after: string;
}

export interface Hostile {
  url: string;
  /** The cursor (`after`) of each request. */
  cursors: string[];
}

/** Serves reads until the test ends. Also serves WebSockets if there is a function for them. */
export async function serve(
  t: TestContext,
  read: (read: Read) => void,
  socket?: (socket: WebSocket, after: string, number: number, request: IncomingMessage) => void,
): Promise<Hostile> {
  const cursors: string[] = [];
  const server = createServer((request, response) => {
    const { address, after } = parse(request);
    response.on("error", () => {});
    read({ request, response, address, after, number: cursors.push(after) - 1 });
  });
  const sockets = new WebSocketServer({ noServer: true });
  server.on("upgrade", (request, connection, head) => {
    if (!socket) {
      return connection.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    sockets.handleUpgrade(request, connection, head, (ws) => {
      ws.on("error", () => {});
      const { after } = parse(request);
      socket(ws, after, cursors.push(after) - 1, request);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    sockets.clients.forEach((client) => client.terminate());
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, cursors };
}

function parse(request: IncomingMessage): { address: string; after: string } {
  const url = new URL(request.url!, "http://localhost");
  return { address: /\/read\/([^/]*)/.exec(url.pathname)?.[1] ?? "", after: url.searchParams.get("after")! };
}

/** Makes a client with short waits after faults. It is closed when the test ends. */
export function client(
  t: TestContext,
  url: string,
  options: Options,
  channel: ConstructorParameters<typeof Megaphone>[1] = "main.c",
): Megaphone {
  const megaphone = new Megaphone(url, channel, { backoff: [10, 50], ...options });
  megaphone.on("error", () => {}); // else the console gets them
  t.after(() => megaphone.close());
  return megaphone;
}

/** Returns the JSON text of message n. */
export function text(n: number, body: unknown = n): string {
  return JSON.stringify({ sid: "s", eid: `e${n}`, ts: "2026-01-01T00:00:00.000000000Z", body });
}

/** Returns the number of the message after a cursor. */
export function nextAfter(cursor: string): number {
  return cursor === "" ? 0 : Number(cursor.slice(1)) + 1;
}

export const frames = {
  ndjson: { type: "application/x-ndjson", frame: (message: string) => `${message}\n` },
  poll: { type: "application/x-ndjson", frame: (message: string) => `${message}\n` },
  sse: { type: "text/event-stream", frame: (message: string) => `id: x\ndata: ${message}\n\n` },
} as const;

export type HTTPTransport = keyof typeof frames;
export const httpTransports = Object.keys(frames) as HTTPTransport[];

/** Begins the reply to a read. */
export function begin(response: ServerResponse, transport: HTTPTransport): void {
  response.writeHead(200, { "Content-Type": frames[transport].type });
  response.write(transport === "sse" ? "retry: 1000\n" : "");
  response.flushHeaders();
}

/** Replies with an error, as a Megaphone server does. */
export function refuse(
  response: ServerResponse,
  status: number,
  code: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { "Content-Type": "application/json", ...headers });
  response.end(JSON.stringify({ code, message: "on purpose" }));
}

/** Waits until a condition holds. */
export async function until(what: string, condition: () => boolean, patience = 60_000): Promise<void> {
  for (const began = performance.now(); !condition(); await sleep(2)) {
    if (performance.now() - began > patience) {
      throw new Error(`waited in vain until ${what}`);
    }
  }
}

export function sleep(time: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, time));
}

/** Returns the bodies of the next messages on stream s. */
export async function take(megaphone: Megaphone, count: number): Promise<unknown[]> {
  const bodies: unknown[] = [];
  if (count > 0) {
    for await (const { body } of megaphone.messages("s")) {
      if (bodies.push(body) === count) {
        break;
      }
    }
  }
  return bodies;
}

/** Returns the numbers from 0 to count, without count itself. */
export function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, n) => n);
}
