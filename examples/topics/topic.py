"""Publishes the log of a build to everybody who has joined its topic, and ends the topic, with Python's standard library."""
import json
import os
import sys
import urllib.request

url = os.environ.get("MEGAPHONE_URL", "http://127.0.0.1:3000")
topic = f"build-{os.getpid()}"


def send(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


# A page's channel. It knows topics, so it learns what it has missed, and when a topic ends.
channel = send("POST", "/create", {"topics": []})

# It joins, and gets first what the topic keeps, if the server keeps any. In one request: {"topics": [{"topic": …, "last": "all"}]}
send("PUT", f"/topic/{topic}/{channel['producerAddress']}?last=all")

send("POST", f"/publish/{topic}/log", {"text": "hello"})
result = send("POST", f"/publish/{topic}/log", {"text": "world"})
print(f"{result['accepted']} of {result['members']} members have it, {result['full']} were too slow", file=sys.stderr)
send("POST", f"/topic/{topic}/close", {"as": "done"})  # later publishes get 409

print(channel["consumerAddress"])  # a member reads the messages at /read/ plus this address
