// Reads server-sent events with a library, used as its README shows. Prints the body of each message.
//
// Arguments: the library, the URL, the event to listen for ("message" if events have no names), how many messages.
// Every event must hold a message: the program ends with an error if an event's data is not JSON.

const [library, url, name, count] = process.argv.slice(2);
let left = Number(count);

function receive({ data }) {
  console.log(JSON.stringify(JSON.parse(data).body));
  if (--left === 0) {
    process.exit();
  }
}

const readers = {
  async eventsource() {
    const { EventSource } = await import("eventsource");
    new EventSource(url).addEventListener(name, receive);
  },
  async "event-source-polyfill"() {
    const { EventSourcePolyfill } = (await import("event-source-polyfill")).default;
    new EventSourcePolyfill(url).addEventListener(name, receive);
  },
  async "eventsource-client"() {
    const { createEventSource } = await import("eventsource-client");
    createEventSource({
      url,
      onMessage({ event = "message", data }) {
        if (event !== name) {
          throw new Error(`an event ${event} with the data ${JSON.stringify(data)}`);
        }
        receive({ data });
      },
    });
  },
  async "fetch-event-source"() {
    globalThis.window = globalThis; // the library is for browsers
    globalThis.document = { removeEventListener() {} };
    const { fetchEventSource } = (await import("@microsoft/fetch-event-source")).default;
    await fetchEventSource(url, {
      openWhenHidden: true,
      onmessage({ event, data }) {
        if ((event || "message") !== name) {
          throw new Error(`an event ${event} with the data ${JSON.stringify(data)}`);
        }
        receive({ data });
      },
      onclose() {
        throw new Error("closed"); // makes the library connect again
      },
      onerror(error) {
        if (error.message !== "closed") {
          throw error; // makes the library give up
        }
      },
    });
  },
};
await readers[library]();
