#!/usr/bin/env python3
"""A worker process that keeps small programs per session and runs them.

It stands for the service behind a worker pool: start one for V1, several for V2, and break any of them with a fault.
Python 3.9 or later, standard library only.

Protocol, on stdin and stdout: a frame is four bytes of big-endian length and that many bytes of UTF-8 JSON, 16 MiB at
most. A request is `{"id", "command", "args"}` and gets one reply, in order: `{"id", "success": true, "result"}` or
`{"id", "success": false, "error": {"type", "message"}}`. Error types: `invalid_request`, `not_found` and `conflict` are
the caller's fault, `worker_error` is the worker's.

Commands; each takes its session from `args.session_id` (default "") and sees the programs of that session alone:

    create_program  {signature, rule?, wait_ms?, program_id?} -> {program_id, signature}
    execute         {program_id, inputs}                      -> {outputs, duration_ms, worker}
    list_programs   {}                                        -> {programs}
    delete_program  {program_id}                              -> {deleted}
    health_check    {}                    -> {status, pid, uptime_ms, programs, sessions, rss_kb}

A signature is `{"inputs": [{"name", ...}], "outputs": [{"name", ...}]}`. A rule maps outputs to expressions; an output
without one is all inputs as text, joined by a space. Expressions are total: once `create_program` took one, it has a
value for every input.

    {"op": "const", "value": V}                     V
    {"op": "input", "name": N}                      the input N
    {"op": "concat", "of": [E...], "separator": S}  the values as text, joined by S (default "")
    {"op": "sum" | "product", "of": [E...]}         over the values as numbers; saturates, never infinite
    {"op": "upper", "of": E}                        the value as text, in capitals
    {"op": "length", "of": E}                       items of a list or object, otherwise characters of the text

As text, a string is itself, null is empty, and anything else is its JSON. As a number, a boolean is 0 or 1, a string is
the number that it spells, and anything else is 0.

Exit codes: 0 at the end of stdin and on SIGTERM (after the call in progress), 1 for `--fail-start`, 2 for bad arguments
or input that cannot be answered, 70 for an injected crash. SIGINT is ignored: who started the worker stops it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import signal
import sys
import time
from typing import Any, BinaryIO, Callable, NoReturn, Optional

MAX_FRAME = 16 * 1024 * 1024
# Enough for any example, and a bound on what one call can cost.
MAX_RULE_NODES = 256
MAX_RULE_DEPTH = 32
MAX_NUMBER = sys.float_info.max
# Where integers stop being exact in the JSON readers that use doubles.
MAX_EXACT = 2**53
# Messages quote what the caller sent, which may be large.
MAX_MESSAGE = 1000
CRASH_EXIT = 70
HANG_SECONDS = 3600
# Read as a length these letters are 1.4 GB, so a reader finds out with its first four bytes.
GARBAGE = b"Traceback (most recent call last):\n"
PID = os.getpid()

Expression = Callable[[dict], Any]


class CallError(Exception):
    """A call that ends in an error reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def invalid(message: str) -> CallError:
    return CallError("invalid_request", message)


def not_found(program_id: str) -> CallError:
    return CallError("not_found", f"no program `{program_id}` in this session")


# --- JSON -------------------------------------------------------------------------------------------------------------


def clamp(number: float) -> float:
    return max(-MAX_NUMBER, min(MAX_NUMBER, number))


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"`{name}` is not JSON")


# Built once: `json.loads` and `json.dumps` with options make a new codec for every call.
decode = json.JSONDecoder(parse_float=lambda text: clamp(float(text)), parse_constant=refuse_constant).decode
encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
encode_sorted = json.JSONEncoder(separators=(",", ":"), allow_nan=False, sort_keys=True).encode


# --- Programs ---------------------------------------------------------------------------------------------------------


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else encode_sorted(value)


def as_number(value: Any) -> float:
    if isinstance(value, (int, float)):
        return exact(value)
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return 0
        if math.isfinite(number):
            return exact(int(number) if number.is_integer() else number)
    return 0


def exact(number: float) -> float:
    """Integers stay integers as long as every reader of JSON takes them for the same number."""
    if isinstance(number, int) and abs(number) <= MAX_EXACT:
        return int(number)
    try:
        return clamp(float(number))
    except OverflowError:
        return MAX_NUMBER if number > 0 else -MAX_NUMBER


def total(values: Any) -> float:
    result: float = 0
    for value in values:
        result = exact(result + value)
    return result


def product(values: Any) -> float:
    result: float = 1
    for value in values:
        result = exact(result * value)
    return result


class RuleCompiler:
    """Turns the expressions of one rule into functions of the inputs, and refuses what could fail later."""

    def __init__(self, inputs: list) -> None:
        self.inputs = inputs
        self.nodes = 0

    def compile(self, rule: Any, depth: int = 1) -> Expression:
        self.nodes += 1
        if self.nodes > MAX_RULE_NODES or depth > MAX_RULE_DEPTH:
            raise invalid(f"a rule has at most {MAX_RULE_NODES} expressions, nested at most {MAX_RULE_DEPTH} deep")
        if not isinstance(rule, dict):
            raise invalid("an expression is an object with `op`")
        op = rule.get("op")
        if op == "const" and "value" in rule:
            value = rule["value"]
            return lambda _: value
        if op == "input":
            return self.input(rule.get("name"))
        if op in ("concat", "sum", "product"):
            return self.fold(op, rule, depth)
        if op in ("upper", "length") and "of" in rule:
            of = self.compile(rule["of"], depth + 1)
            if op == "upper":
                return lambda inputs: as_text(of(inputs)).upper()
            return lambda inputs: length(of(inputs))
        raise invalid(f"not an expression: op {encode(op)} with {encode(sorted(rule))}")

    def input(self, name: Any) -> Expression:
        if name not in self.inputs:
            raise invalid(f"the rule reads the input {encode(name)}, which the signature does not have")
        return lambda inputs: inputs[name]

    def fold(self, op: str, rule: dict, depth: int) -> Expression:
        of = rule.get("of")
        if not isinstance(of, list):
            raise invalid(f"`of` of `{op}` is a list of expressions")
        parts = [self.compile(part, depth + 1) for part in of]
        if op == "concat":
            separator = rule.get("separator", "")
            if not isinstance(separator, str):
                raise invalid("`separator` of `concat` is text")
            return lambda inputs: separator.join([as_text(part(inputs)) for part in parts])
        fold = total if op == "sum" else product
        return lambda inputs: fold(as_number(part(inputs)) for part in parts)


def length(value: Any) -> int:
    return len(value) if isinstance(value, (list, dict)) else len(as_text(value))


def field_names(signature: dict, side: str) -> list:
    fields = signature.get(side)
    if not isinstance(fields, list):
        raise invalid(f"`signature.{side}` is a list of objects with `name`")
    names = [field.get("name") if isinstance(field, dict) else None for field in fields]
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise invalid(f"every entry of `signature.{side}` has a `name` of its own")
    return names


class Program:
    """What `create_program` was given, checked and ready to run."""

    def __init__(self, args: dict) -> None:
        self.signature = args.get("signature")
        if not isinstance(self.signature, dict):
            raise invalid("`signature` is an object with `inputs` and `outputs`")
        self.inputs = field_names(self.signature, "inputs")
        outputs = field_names(self.signature, "outputs")
        if not outputs:
            raise invalid("`signature.outputs` has at least one entry")
        rule = {} if args.get("rule") is None else args["rule"]
        wait_ms = 0 if args.get("wait_ms") is None else args["wait_ms"]
        if not isinstance(rule, dict) or not rule.keys() <= set(outputs):
            raise invalid("`rule` is an object with an expression for outputs of the signature")
        if isinstance(wait_ms, bool) or not isinstance(wait_ms, (int, float)) or not 0 <= wait_ms <= 3_600_000:
            raise invalid("`wait_ms` is a number from 0 to 3600000")
        compiler = RuleCompiler(self.inputs)
        everything = {"op": "concat", "separator": " ", "of": [{"op": "input", "name": name} for name in self.inputs]}
        self.outputs = [(name, compiler.compile(rule.get(name, everything))) for name in outputs]
        self.wait_s = wait_ms / 1000
        self.definition = encode_sorted({"signature": self.signature, "rule": rule, "wait_ms": float(wait_ms)})

    def id_in(self, session: str) -> str:
        """The same session and definition give the same id on every worker."""
        return hashlib.sha256(f"{encode(session)}\n{self.definition}".encode()).hexdigest()[:16]

    def run(self, inputs: dict) -> dict:
        return {name: expression(inputs) for name, expression in self.outputs}


def wrong(value: Any) -> Any:
    """A plausible value of the same type that is not `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if abs(value) < MAX_EXACT else -value
    if isinstance(value, str):
        return value + "?"
    return [value]


# --- Faults -----------------------------------------------------------------------------------------------------------


def amount(text: Any) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError("not a number from 0 on")
    return value


def share(text: Any) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("not a number from 0 to 1")
    return value


def switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not true or false")
    return value


# Key (as a flag: dashes for underscores), its type, and what the help says.
FAULTS: "list[tuple[str, Callable[[Any], Any], str]]" = [
    ("latency_ms", amount, "added to every execute"),
    ("error_share", share, "of executes answer worker_error"),
    ("wrong_share", share, "of executes answer wrong outputs"),
    ("crash_share", share, f"of executes end the process in the middle, with exit code {CRASH_EXIT}"),
    ("hang_share", share, "of executes do not return for an hour"),
    ("garbage_share", share, "of executes write bytes that are not a frame"),
    ("leak_kb", amount, "kept for ever by every execute"),
    ("startup_ms", amount, "before the first frame is read"),
    ("fail_start", switch, "exit with code 1 instead of starting"),
    ("seed", int, "of the chance that the shares are drawn with"),
]


class Faults:
    """The faults of the command line, with those of the file laid over them. Chance depends on the seed alone."""

    def __init__(self, flags: dict, path: Optional[str]) -> None:
        self.flags = flags
        self.path = path
        self.version: Optional[tuple] = None
        self.seed = flags["seed"]
        self.random = random.Random(self.seed).random
        self.apply({})
        self.refresh()

    def refresh(self) -> None:
        """Reads the file again if it changed. A file that cannot be used leaves the faults as they were."""
        if self.path is None:
            return
        try:
            stat = os.stat(self.path)
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            version = None
        if version == self.version:
            return
        self.version = version
        try:
            self.apply(self.read() if version else {})
        except (OSError, ValueError, TypeError) as error:
            warn(f"faults file `{self.path}` is not used: {error}")

    def read(self) -> dict:
        with open(self.path or "", encoding="utf-8") as file:
            content = json.load(file)
        if not isinstance(content, dict):
            raise ValueError("not an object")
        types = {key: kind for key, kind, _ in FAULTS}
        faults = {key.replace("-", "_"): value for key, value in content.items()}
        unknown = sorted(faults.keys() - types.keys())
        if unknown:
            raise ValueError(f"unknown fault `{unknown[0]}`")
        return {key: types[key](value) for key, value in faults.items()}

    def apply(self, over: dict) -> None:
        values = {**self.flags, **over}
        if values["seed"] != self.seed:
            self.seed = values["seed"]
            self.random = random.Random(self.seed).random
        self.latency_s = values["latency_ms"] / 1000
        self.error_share = values["error_share"]
        self.wrong_share = values["wrong_share"]
        self.crash_share = values["crash_share"]
        self.hang_share = values["hang_share"]
        self.garbage_share = values["garbage_share"]
        self.leak_bytes = int(values["leak_kb"] * 1024)
        self.startup_s = values["startup_ms"] / 1000
        self.fail_start = values["fail_start"]

    def strikes(self, of: float) -> bool:
        """Draws only for a fault that is switched on, so that the others do not shift its sequence."""
        return of > 0 and self.random() < of


class Garbage(Exception):
    """The injected fault that answers with bytes that are not a frame."""


# --- The worker -------------------------------------------------------------------------------------------------------


class Worker:
    """The programs of all sessions, and the commands on them."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.sessions: "dict[str, dict[str, Program]]" = {}
        self.leaked: list = []
        self.started = time.monotonic()
        self.commands = {
            "execute": self.execute,
            "create_program": self.create_program,
            "list_programs": self.list_programs,
            "delete_program": self.delete_program,
            "health_check": self.health_check,
        }

    def call(self, command: Any, args: Any) -> dict:
        run = self.commands.get(command) if isinstance(command, str) else None
        if run is None:
            raise invalid(f"unknown command {encode(command)}")
        if not isinstance(args, dict):
            raise invalid("`args` is an object")
        session = args.get("session_id", "")
        if not isinstance(session, str):
            raise invalid("`session_id` is text")
        return run(session, args)

    def create_program(self, session: str, args: dict) -> dict:
        program = Program(args)
        program_id = program.id_in(session) if args.get("program_id") is None else args["program_id"]
        if not isinstance(program_id, str) or not program_id:
            raise invalid("`program_id` is text that is not empty")
        known = self.sessions.setdefault(session, {}).setdefault(program_id, program)
        if known.definition != program.definition:
            raise CallError("conflict", f"program `{program_id}` exists with another definition")
        return {"program_id": program_id, "signature": program.signature}

    def execute(self, session: str, args: dict) -> dict:
        start = time.perf_counter()
        _, program = self.find(session, args)
        inputs = args.get("inputs")
        if not isinstance(inputs, dict):
            raise invalid("`inputs` is an object")
        for name in program.inputs:
            if name not in inputs:
                raise invalid(f"the input `{name}` is missing")
        outputs = self.run_with_faults(program, inputs)
        return {"outputs": outputs, "duration_ms": round((time.perf_counter() - start) * 1000, 3), "worker": PID}

    def run_with_faults(self, program: Program, inputs: dict) -> dict:
        faults = self.faults
        wait_s = program.wait_s + faults.latency_s
        if faults.leak_bytes:
            # Written, not only reserved: memory that nobody touched does not count.
            self.leaked.append(b"\xa5" * faults.leak_bytes)
        if faults.strikes(faults.hang_share):
            time.sleep(HANG_SECONDS)
        if faults.strikes(faults.crash_share):
            time.sleep(wait_s / 2)
            os._exit(CRASH_EXIT)
        if wait_s > 0:
            time.sleep(wait_s)
        if faults.strikes(faults.garbage_share):
            raise Garbage
        if faults.strikes(faults.error_share):
            raise CallError("worker_error", "injected fault")
        outputs = program.run(inputs)
        if faults.strikes(faults.wrong_share):
            return {name: wrong(value) for name, value in outputs.items()}
        return outputs

    def list_programs(self, session: str, _args: dict) -> dict:
        return {"programs": sorted(self.sessions.get(session, ()))}

    def delete_program(self, session: str, args: dict) -> dict:
        program_id, _ = self.find(session, args)
        del self.sessions[session][program_id]
        if not self.sessions[session]:
            del self.sessions[session]
        return {"deleted": program_id}

    def health_check(self, _session: str, _args: dict) -> dict:
        return {
            "status": "ok",
            "pid": PID,
            "uptime_ms": int((time.monotonic() - self.started) * 1000),
            "programs": sum(map(len, self.sessions.values())),
            "sessions": len(self.sessions),
            "rss_kb": rss_kb(),
        }

    def find(self, session: str, args: dict) -> "tuple[str, Program]":
        program_id = args.get("program_id")
        if not isinstance(program_id, str):
            raise invalid("`program_id` is text")
        program = self.sessions.get(session, {}).get(program_id)
        if program is None:
            raise not_found(program_id)
        return program_id, program


def rss_kb() -> int:
    """Resident memory now; where the system does not say, the most that there was."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak


# --- Frames and signals -----------------------------------------------------------------------------------------------


class Server:
    """Reads a frame, answers it, and so on until stdin ends or SIGTERM comes."""

    def __init__(self, worker: Worker, reader: BinaryIO, writer: BinaryIO) -> None:
        self.worker = worker
        self.reader = reader
        self.writer = writer
        self.busy = False
        self.stopping = False

    def on_sigterm(self, _signal: int, _frame: Any) -> None:
        self.stopping = True
        if not self.busy:
            raise SystemExit(0)

    def serve(self) -> None:
        while not self.stopping:
            request = self.read_request()
            if request is None:
                return
            self.busy = True
            self.worker.faults.refresh()
            self.writer.write(self.answer(request))
            self.writer.flush()
            self.busy = False

    def read_request(self) -> Optional[dict]:
        header = self.reader.read(4)
        if len(header) < 4:
            return None
        size = int.from_bytes(header, "big")
        if size > MAX_FRAME:
            fail(f"a frame of {size} bytes is over the limit of {MAX_FRAME}")
        body = self.reader.read(size)
        if len(body) < size:
            return None
        try:
            request = decode(body.decode())
        except (ValueError, RecursionError) as error:
            fail(f"a frame is not JSON: {error}")
        if not isinstance(request, dict) or not isinstance(request.get("id"), (str, int)):
            fail("a frame is not an object whose `id` is text or an integer")
        return request

    def answer(self, request: dict) -> bytes:
        """The bytes to write: a frame, unless the fault is that they are not."""
        request_id = request["id"]
        try:
            result = self.worker.call(request.get("command"), request.get("args", {}))
            body = encode({"id": request_id, "success": True, "result": result}).encode()
            if len(body) > MAX_FRAME:
                raise invalid(f"the result of {len(body)} bytes is over the limit of {MAX_FRAME}")
        except CallError as error:
            body = refusal(request_id, error.kind, str(error))
        except Garbage:
            return GARBAGE
        except Exception as error:  # One call's defect is that call's answer, not the end of every session.
            body = refusal(request_id, "worker_error", f"{type(error).__name__}: {error}")
        return len(body).to_bytes(4, "big") + body


def refusal(request_id: Any, kind: str, message: str) -> bytes:
    return encode({"id": request_id, "success": False, "error": {"type": kind, "message": message[:MAX_MESSAGE]}}).encode()


def warn(message: str) -> None:
    print(f"worker {PID}: {message}", file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    warn(message)
    raise SystemExit(2)


def claim_stdout() -> BinaryIO:
    """Keeps stdout for frames: whatever else prints goes to stderr, down to the file descriptor."""
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return frames


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serves programs as frames on stdin and stdout; faults on demand.")
    for key, kind, text in FAULTS:
        flag = "--" + key.replace("_", "-")
        if kind is switch:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            parser.add_argument(flag, type=kind, default=0, metavar="N", help=text)
    parser.add_argument("--faults", metavar="FILE", help="JSON object of the above, read again whenever it changes")
    return parser.parse_args()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = vars(arguments())
    faults = Faults({key: options[key] for key, _, _ in FAULTS}, options["faults"])
    server = Server(Worker(faults), sys.stdin.buffer, claim_stdout())
    signal.signal(signal.SIGTERM, server.on_sigterm)
    if faults.startup_s > 0:
        time.sleep(faults.startup_s)
    if faults.fail_start:
        warn("injected fault: does not start")
        raise SystemExit(1)
    try:
        server.serve()
    except BrokenPipeError:
        os._exit(0)  # Nobody reads the replies any more; an orderly exit would try to flush them once more.


if __name__ == "__main__":
    main()
