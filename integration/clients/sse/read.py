"""Reads server-sent events with a library, used as its README shows. Prints the body of each message.

Arguments: the library, the URL, the event to listen for ("message" if events have no names), how many messages.
Every event must hold a message: the program ends with an error if an event's data is not JSON.
"""

import json
import pathlib
import sys

library, url, name, count = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(__file__).parent / "site-packages" / library))

import requests  # noqa: E402
from sseclient import SSEClient  # noqa: E402  # both libraries have a module of this name


def connections():
    """The events of each connection in turn, if the library does not connect again by itself."""
    last = ""
    while True:
        header = {"Accept": "text/event-stream", "Last-Event-ID": last}
        with requests.get(url, headers=header, stream=True, timeout=60) as response:
            for event in SSEClient(response).events():
                yield event
                last = event.id


def without_ends():
    """The events without the empty one at the end of each connection.

    sseclient does not decode chunked responses. It takes the last chunk for an event without data.
    """
    client = SSEClient(url, timeout=60)
    ended = None
    for event in client:
        if client.resp is ended:
            raise ValueError("an event without data, and the connection has not ended")
        if event.data == "":
            ended = client.resp
        else:
            yield event


# sseclient prints to the standard output why it connects again.
output, sys.stdout = sys.stdout, sys.stderr
events = without_ends() if library == "sseclient" else connections()
for _, event in zip(range(int(count)), events):
    if event.event != name:
        raise ValueError(f"an event {event.event} with the data {event.data!r}")
    print(json.dumps(json.loads(event.data)["body"]), file=output, flush=True)
