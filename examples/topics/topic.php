<?php
// Publishes the log of a build to everybody who has joined its topic, and ends the topic, with plain PHP.

$url = getenv('MEGAPHONE_URL') ?: 'http://127.0.0.1:3000';
$topic = 'build-' . getmypid();

function send(string $method, string $address, mixed $body = null): array
{
    $reply = file_get_contents($address, false, stream_context_create(['http' => [
        'method' => $method,
        'header' => 'Content-Type: application/json',
        'content' => $body === null ? '' : json_encode($body, JSON_THROW_ON_ERROR),
    ]]));
    return $reply === false ? exit(1) : json_decode($reply, true);
}

// A page's channel. It knows topics, so it learns what it has missed, and when a topic ends.
$channel = send('POST', "$url/create", ['topics' => []]);

// It joins, and gets first what the topic keeps, if the server keeps any. In one request: ['topics' => [['topic' => …, 'last' => 'all']]]
send('PUT', "$url/topic/$topic/{$channel['producerAddress']}?last=all");

send('POST', "$url/publish/$topic/log", ['text' => 'hello']);
$result = send('POST', "$url/publish/$topic/log", ['text' => 'world']);
fwrite(STDERR, "{$result['accepted']} of {$result['members']} members have it, {$result['full']} were too slow\n");
send('POST', "$url/topic/$topic/close", ['as' => 'done']); // later publishes get 409

echo $channel['consumerAddress'], "\n"; // a member reads the messages at /read/ plus this address
