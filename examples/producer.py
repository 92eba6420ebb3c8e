"""Creates a channel and writes to it, with Python's standard library."""
import json
import os
import urllib.request

url = os.environ.get("MEGAPHONE_URL", "http://127.0.0.1:3000")


def post(path, body=None):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:  # a full channel holds a write for up to 10 s
        return json.load(reply)


channel = post("/create")
post(f"/write/{channel['producerAddress']}/news", {"text": "hello"})
messages = [{"streamId": "news", "body": {"text": "world"}}]
result = post("/write-batch", {"channels": [channel["producerAddress"]], "messages": messages})
assert not result["failures"], result
print(channel["consumerAddress"])  # a consumer reads the messages at /read/ plus this address
