<?php
// Prints a sealed body. PHP comes without a JOSE library, and a JWE with dir and A256GCM needs none: it is AES-GCM by openssl,
// in Base64url. KEY is the key, 32 bytes in hexadecimal.

function base64url(string $bytes): string
{
    return rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
}

function seal(mixed $body, string $key, array $more): string
{
    $header = base64url(json_encode(['alg' => 'dir', 'enc' => 'A256GCM'] + $more, JSON_THROW_ON_ERROR));
    $iv = random_bytes(12);
    $text = json_encode($body, JSON_THROW_ON_ERROR);
    $sealed = openssl_encrypt($text, 'aes-256-gcm', $key, OPENSSL_RAW_DATA, $iv, $tag, $header);
    return implode('.', [$header, '', base64url($iv), base64url($sealed), base64url($tag)]);
}

// sid: the stream it is for
echo seal(['text' => 'grüße'], hex2bin(getenv('KEY')), ['kid' => '2026', 'sid' => 'news']), "\n"; // write it as a JSON string
