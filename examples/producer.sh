#!/bin/sh
# Creates a channel and writes to it, with curl.
set -eu
url=${MEGAPHONE_URL:-http://127.0.0.1:3000}

channel=$(curl -fsS -X POST "$url/create")
producer=$(expr "$channel" : '.*"producerAddress":"\([^"]*\)"') # or with jq: jq -r .producerAddress
consumer=$(expr "$channel" : '.*"consumerAddress":"\([^"]*\)"')

curl -fsS -o /dev/null --json '{"text":"hello"}' "$url/write/$producer/news"
curl -fsS -o /dev/null --json '{"text":"world"}' -H 'Idempotency-Key: greeting-2' --retry 3 "$url/write/$producer/news"

# A consumer reads the messages with: curl -N "$url/read/$consumer"
echo "$consumer"
