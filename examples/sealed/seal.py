# Prints a sealed body, with joserfc. KEY is the key, 32 bytes in hexadecimal.

import json
import os

from joserfc import jwe
from joserfc.jwk import OctKey
from joserfc.registry import HeaderParameter

key = OctKey.import_key(bytes.fromhex(os.environ["KEY"]))
header = {"alg": "dir", "enc": "A256GCM", "kid": "2026", "sid": "news"}  # sid: the stream it is for
registry = jwe.JWERegistry(header_registry={"sid": HeaderParameter("the stream", "str")})
print(jwe.encrypt_compact(header, json.dumps({"text": "grüße"}), key, registry=registry))  # write it as a JSON string
