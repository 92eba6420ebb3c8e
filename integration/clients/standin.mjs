// Reads as the original broker's JavaScript client does. It trims every chunk, splits it at line feeds, and parses each
// piece. After a clean end it reads again at once. Any fault is final. Prints the body of each message.
//
// Arguments: the base URL, the consumer address, the stream id, how many messages.

const [url, consumer, streamId, count] = process.argv.slice(2);
const newest = [];

for (let left = Number(count); ;) {
  const response = await fetch(`${url}/read/${consumer}`);
  if (!response.ok || response.status === 204) {
    throw new Error(`status ${response.status}`);
  }
  const decoder = new TextDecoder();
  for await (const chunk of response.body) {
    for (const line of decoder.decode(chunk).trim().split("\n")) {
      const { sid, eid, body } = JSON.parse(line);
      if (sid !== streamId || newest.includes(eid)) {
        continue;
      }
      newest.push(eid);
      newest.splice(0, newest.length - 100);
      console.log(JSON.stringify(body));
      if (--left === 0) {
        process.exit();
      }
    }
  }
}
