// Writes messages with this project's producer and reads them with its client. Prints the body of each message.
//
// Arguments: the URL to write to, the URL to read from, the transports to use (separated by commas), how many messages.
// Exits with 77 if the transports include websocket and there is no WebSocket.

import { Megaphone } from "../../client/js/dist/megaphone.js";
import { Producer } from "../../client/js/dist/producer.js";

const [writeURL, readURL, names, count] = process.argv.slice(2);
const transports = names.split(",");
let { WebSocket } = globalThis;
if (!WebSocket && transports.includes("websocket")) {
  try {
    ({ WebSocket } = await import("../../client/js/node_modules/ws/wrapper.mjs"));
  } catch {
    process.exit(77);
  }
}

const producer = new Producer(writeURL);
const channel = await producer.create();
const megaphone = new Megaphone(readURL, channel, { WebSocket, transports, backoff: [10, 100] });
megaphone.on("gone", (error) => {
  throw error;
});
megaphone.on("gap", () => {
  throw new Error("a gap");
});
let left = Number(count);
megaphone.subscribe("numbers", ({ body }) => {
  console.log(JSON.stringify(body));
  if (--left === 0) {
    megaphone.close(); // after that, nothing keeps the process running
  }
});

// During a reload, the server closes idle connections, and a request may be on its way on one of them. The producer
// repeats such a request, unless it is an ingest. The caller must repeat an ingest. Keys make that safe.
async function ingest(messages) {
  for (;;) {
    try {
      return await producer.ingest(messages);
    } catch (error) {
      if (error.code !== "NETWORK") {
        throw error;
      }
    }
  }
}

// Uses each way to write in turn.
for (let n = 0; n < count; n += 3) {
  await producer.write(channel, "numbers", n);
  const failures = await producer.writeBatch([channel], [{ streamId: "numbers", body: n + 1 }]);
  const result = await ingest([{ channel, streamId: "numbers", body: n + 2, key: `message-${n}` }]);
  if (failures.length > 0 || result.written !== 1) {
    throw new Error(JSON.stringify({ failures, result }));
  }
  await new Promise((resolve) => setTimeout(resolve, 20));
}
if (!(await producer.exist([channel.consumerAddress]))[channel.consumerAddress]) {
  throw new Error("the channel is gone");
}
