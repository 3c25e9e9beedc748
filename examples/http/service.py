"""A small shop over HTTP: `python3 service.py PORT NAME [FAULTS]`.

`GET /api/orders` lists orders, `GET /api/orders/ID` shows one, `POST /api/orders` takes one, `GET /healthz` says how it is.
FAULTS is a file that breaks it while it runs: {"errors": 0.2} answers a fifth of all requests with 500, {"slow_ms": 300} takes its time.
"""

import json
import random
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ORDERS = {str(n): {"id": n, "item": f"item {n}", "price": 100 * n} for n in range(1, 11)}


def faults():
    try:
        with open(sys.argv[3], encoding="utf-8") as file:
            return json.load(file)
    except (IndexError, OSError, ValueError):
        return {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("x-served-by", sys.argv[2])
        self.end_headers()
        self.wfile.write(data)

    def broken(self):
        fault = faults()
        time.sleep(fault.get("slow_ms", 0) / 1000)
        if random.random() < fault.get("errors", 0):
            self.reply(500, {"error": "out of order"})
            return True
        return False

    def do_GET(self):
        if self.path == "/healthz":
            self.reply(200, {"ok": True})
        elif self.broken():
            pass
        elif self.path == "/api/orders":
            self.reply(200, sorted(ORDERS.values(), key=lambda order: order["id"]))
        elif self.path.startswith("/api/orders/") and self.path[12:] in ORDERS:
            self.reply(200, ORDERS[self.path[12:]])
        else:
            self.reply(404, {"error": "not here"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self.broken():
            self.reply(201, {"taken": json.loads(body or b"{}")})

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
