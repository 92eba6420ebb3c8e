<?php
// Creates a channel and writes to it, with plain PHP.

$url = getenv('MEGAPHONE_URL') ?: 'http://127.0.0.1:3000';

function post(string $address, mixed $body = null): array
{
    $reply = file_get_contents($address, false, stream_context_create(['http' => [
        'method' => 'POST',
        'header' => 'Content-Type: application/json',
        'content' => json_encode($body, JSON_THROW_ON_ERROR),
    ]]));
    return $reply === false ? exit(1) : json_decode($reply, true);
}

$channel = post("$url/create");
post("$url/write/{$channel['producerAddress']}/news", ['text' => 'hello']);
post("$url/write/{$channel['producerAddress']}/news", ['text' => 'world']);
echo $channel['consumerAddress'], "\n"; // a consumer reads the messages at /read/ plus this address
