import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen


def megaphone(path, body):
    request = Request("http://127.0.0.1:3000" + path, body, {"Content-Type": "application/json"})
    return json.load(urlopen(request))


class Backend(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(Path(__file__).with_name("page.html").read_bytes())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/say":
            return self.answer(json.dumps(megaphone("/publish/room/chat", body)).encode())
        channel = megaphone("/create", b'{"topics": ["room"]}')
        megaphone("/write/" + channel["producerAddress"] + "/chat", b'"Welcome"')
        self.answer(channel["consumerAddress"].encode())

    def answer(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", 8000), Backend).serve_forever()
