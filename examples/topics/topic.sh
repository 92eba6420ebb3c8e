#!/bin/sh
# Publishes the log of a build to everybody who has joined its topic, and ends the topic, with curl.
set -eu
url=${MEGAPHONE_URL:-http://127.0.0.1:3000}
topic=build-$$

# A page's channel. It knows topics, so it learns what it has missed, and when a topic ends.
channel=$(curl -fsS --json '{"topics":[]}' "$url/create")
producer=$(expr "$channel" : '.*"producerAddress":"\([^"]*\)"') # or with jq: jq -r .producerAddress
consumer=$(expr "$channel" : '.*"consumerAddress":"\([^"]*\)"')

# It joins, and gets first what the topic keeps, if the server keeps any. In one request: {"topics":[{"topic":"…","last":"all"}]}
curl -fsS -o /dev/null -X PUT "$url/topic/$topic/$producer?last=all"

curl -fsS -o /dev/null --json '{"text":"hello"}' "$url/publish/$topic/log"
curl -fsS --json '{"text":"world"}' -H "Idempotency-Key: $topic-2" --retry 3 "$url/publish/$topic/log" >&2 # {"members":1,"accepted":1,"full":0}
curl -fsS -o /dev/null --json '{"as":"done"}' "$url/topic/$topic/close" # later publishes get 409

# A member reads with: curl -N "$url/read/$consumer"
echo "$consumer"
