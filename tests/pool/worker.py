"""A worker that does what each call tells it to, well or not: for tests of pools. Python 3.9, standard library only.

Calls: `put {key, value}` and `get {key}` in the session's own state; `wait {ms}`; `who {}` -> pid; `fail {}` raises;
`refuse {}` refuses; and misdeeds `do {what}`: crash, hang, stdout, print, stderr, half, huge, wrong-id, slow, garbage.

Flags: --sick FILE: health checks fail while it exists; --sleepy FILE: each start takes a second while it exists;
--broken FILE: does not start while it exists; --stubborn: ends by SIGKILL alone; --trace FILE: appends a line for each
start and call; --leak: keeps a megabyte for each call.
"""

import argparse
import json
import os
import signal
import sys
import time

parser = argparse.ArgumentParser()
for name in ("sick", "sleepy", "broken", "trace"):
    parser.add_argument("--" + name)
for name in ("stubborn", "leak"):
    parser.add_argument("--" + name, action="store_true")
options = parser.parse_args()
frames, sessions, kept = sys.stdout.buffer, {}, []


def exists(path):
    return path is not None and os.path.exists(path)


def trace(*words):
    if options.trace:
        with open(options.trace, "a") as file:
            file.write(" ".join(map(str, (os.getpid(), *words))) + "\n")


def frame(body):
    return len(body).to_bytes(4, "big") + body


def say(data):
    frames.write(data)
    frames.flush()


def misbehave(what, reply):
    body = json.dumps(reply).encode()
    if what == "crash":
        os._exit(70)
    elif what == "hang":
        time.sleep(3600)
    elif what == "stdout":
        while True:
            say(b"x" * 65536)
    elif what == "print":
        say(b"Loading the model ...\nIt is loaded.\n")
        time.sleep(3600)
    elif what == "stderr":
        for _ in range(512):
            os.write(2, b"e" * 65536)
        say(frame(body))
    elif what == "half":
        say(frame(body)[: len(body) // 2])
        os._exit(0)
    elif what == "huge":
        say(b"\xff\xff\xff\xff" + body)
        time.sleep(3600)
    elif what == "wrong-id":
        say(frame(json.dumps({**reply, "id": reply["id"] + 1}).encode()))
    elif what == "garbage":
        say(frame(b"\xff{not json"))
    elif what == "slow":
        for byte in frame(body):
            say(bytes([byte]))
            time.sleep(0.002)
    else:
        say(frame(body))


def serve(call):
    command, args = call["command"], call["args"]
    session = args.get("session_id", "")
    if command == "health_check" and exists(options.sick):
        raise RuntimeError("sick")
    if command == "put":
        sessions.setdefault(session, {})[args["key"]] = args["value"]
        return {"key": args["key"]}
    if command == "get":
        return {"session": session, "state": sessions.get(session, {}), "pid": os.getpid()}
    if command == "wait":
        time.sleep(args["ms"] / 1000)
    if command == "fail":
        raise RuntimeError("as told")
    return {"pid": os.getpid()}


if options.stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if exists(options.broken):
    sys.exit("broken")
if exists(options.sleepy):
    time.sleep(1)
trace("start")
while header := sys.stdin.buffer.read(4):
    call = json.loads(sys.stdin.buffer.read(int.from_bytes(header, "big")))
    trace(call["command"])
    if options.leak:
        kept.append(b"\xa5" * 1_000_000)
    try:
        reply = {"id": call["id"], "success": True, "result": serve(call)}
    except RuntimeError as error:
        reply = {"id": call["id"], "success": False, "error": {"type": "worker_error", "message": str(error)}}
    if call["command"] == "refuse":
        error = {"type": "invalid_request", "message": "as told"}
        reply = {"id": call["id"], "success": False, "error": error}
    misbehave(call["args"].get("what") if call["command"] == "do" else None, reply)
while options.stubborn:
    time.sleep(1)
