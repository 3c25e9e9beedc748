"""Starts the real worker and speaks to it as a pool does."""

import itertools
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

WORKER = pathlib.Path(__file__).with_name("worker.py")
DEADLINE_S = 5
MAX_FRAME = 16 * 1024 * 1024
GREET = {
    "signature": {"inputs": [{"name": "who", "type": "string"}], "outputs": [{"name": "greeting"}]},
    "rule": {"greeting": {"op": "concat", "of": [{"op": "const", "value": "hello "}, {"op": "input", "name": "who"}]}},
}


class Client:
    """One worker process. Every read has a deadline, so a silent worker fails a test instead of stopping it."""

    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *map(str, flags)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.ids = itertools.count(1)

    def close(self):
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()

    def write(self, data):
        # A pipe may take less than it is given.
        while data:
            data = data[self.process.stdin.write(data) :]

    def send(self, command, **args):
        request = {"id": f"r{next(self.ids)}", "command": command, "args": args}
        self.send_json(request)
        return request["id"]

    def send_json(self, request):
        body = json.dumps(request).encode()
        self.write(len(body).to_bytes(4, "big") + body)

    def read(self, size):
        """`size` bytes, or fewer where the output ends."""
        data = b""
        end = time.monotonic() + DEADLINE_S
        while len(data) < size:
            if not self.readable(max(0.0, end - time.monotonic())):
                raise AssertionError(f"no reply within {DEADLINE_S} s, only {data[:80]!r}")
            more = os.read(self.process.stdout.fileno(), size - len(data))
            if not more:
                break
            data += more
        return data

    def readable(self, seconds):
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def receive(self):
        return json.loads(self.read(int.from_bytes(self.read(4), "big")))

    def reply(self, command, **args):
        sent = self.send(command, **args)
        reply = self.receive()
        assert reply["id"] == sent, f"reply to {reply['id']} for {sent}"
        return reply

    def ok(self, command, **args):
        reply = self.reply(command, **args)
        assert reply["success"] is True, reply
        return reply["result"]

    def error(self, command, **args):
        reply = self.reply(command, **args)
        assert reply["success"] is False, reply
        return reply["error"]

    def greet(self, who="ada"):
        program_id = self.ok("create_program", **GREET)["program_id"]
        return self.reply("execute", program_id=program_id, inputs={"who": who})

    def exit(self):
        """Waits for the end of the process: its exit code, and what it wrote on stderr."""
        code = self.process.wait(DEADLINE_S)
        return code, self.process.stderr.read().decode()


class WorkerCase(unittest.TestCase):
    def start(self, *flags):
        client = Client(*flags)
        self.addCleanup(client.close)
        return client

    def evaluate(self, client, rule, **inputs):
        signature = {"inputs": [{"name": name} for name in inputs], "outputs": [{"name": "out"}]}
        program_id = client.ok("create_program", signature=signature, rule={"out": rule})["program_id"]
        return client.ok("execute", program_id=program_id, inputs=inputs)["outputs"]["out"]

    def assert_refused(self, client, kind, part, command, **args):
        error = client.error(command, **args)
        self.assertEqual(error["type"], kind)
        self.assertIn(part, error["message"])


class Frames(WorkerCase):
    def test_pipelined_frames_are_answered_in_order(self):
        client = self.start()
        sent = [client.send("health_check") for _ in range(20)]
        self.assertEqual([client.receive()["id"] for _ in sent], sent)

    def test_a_frame_may_arrive_byte_by_byte(self):
        client = self.start()
        body = b'{"id":7,"command":"list_programs"}'
        for byte in len(body).to_bytes(4, "big") + body:
            client.write(bytes([byte]))
        self.assertEqual(client.receive(), {"id": 7, "success": True, "result": {"programs": []}})

    def test_a_large_frame_comes_back_whole(self):
        self.assertEqual(
            self.evaluate(self.start(), {"op": "input", "name": "a"}, a="ü" * 500_000), "ü" * 500_000
        )

    def test_a_frame_over_the_limit_ends_the_worker(self):
        client = self.start()
        client.write((MAX_FRAME + 1).to_bytes(4, "big"))
        code, stderr = client.exit()
        self.assertEqual((code, client.read(1)), (2, b""))
        self.assertEqual(len(stderr.splitlines()), 1)
        self.assertIn("over the limit", stderr)

    def test_what_cannot_be_answered_ends_the_worker(self):
        for body in (b"", b"{", b"\xff", b"[1]", b"{}", b'{"id":1,"args":NaN}', b"[" * 100_000):
            with self.subTest(body=body[:20]):
                client = self.start()
                client.write(len(body).to_bytes(4, "big") + body)
                code, stderr = client.exit()
                self.assertEqual((code, len(stderr.splitlines())), (2, 1), stderr)

    def test_a_result_over_the_limit_is_refused(self):
        client = self.start()
        echo = {"op": "concat", "of": [{"op": "input", "name": "a"}] * 20}
        signature = {"inputs": [{"name": "a"}], "outputs": [{"name": "out"}]}
        program_id = client.ok("create_program", signature=signature, rule={"out": echo})["program_id"]
        inputs = {"a": "x" * 1_000_000}
        self.assert_refused(client, "invalid_request", "limit", "execute", program_id=program_id, inputs=inputs)

    def test_the_end_of_stdin_is_the_end_of_the_worker(self):
        for cut in (b"", b"\0\0", b"\0\0\0\x09{"):
            with self.subTest(cut=cut):
                client = self.start()
                client.ok("health_check")
                client.write(cut)
                client.process.stdin.close()
                self.assertEqual(client.exit(), (0, ""))


class Commands(WorkerCase):
    def test_a_program_is_created_run_listed_and_deleted(self):
        client = self.start()
        created = client.ok("create_program", program_id="greet", **GREET)
        self.assertEqual(created, {"program_id": "greet", "signature": GREET["signature"]})
        result = client.ok("execute", program_id="greet", inputs={"who": "ada", "unused": 1})
        self.assertEqual(result["outputs"], {"greeting": "hello ada"})
        self.assertEqual(result["worker"], client.process.pid)
        self.assertGreaterEqual(result["duration_ms"], 0)
        client.ok("create_program", program_id="a", **GREET)
        self.assertEqual(client.ok("list_programs"), {"programs": ["a", "greet"]})
        self.assertEqual(client.ok("delete_program", program_id="greet"), {"deleted": "greet"})
        self.assertEqual(client.ok("list_programs"), {"programs": ["a"]})
        self.assert_refused(client, "not_found", "`greet`", "execute", program_id="greet", inputs={})
        self.assert_refused(client, "not_found", "`greet`", "delete_program", program_id="greet")

    def test_sessions_do_not_see_each_other(self):
        client = self.start()
        first = client.ok("create_program", session_id="a", **GREET)["program_id"]
        second = client.ok("create_program", session_id="b", **GREET)["program_id"]
        self.assertNotEqual(first, second)
        self.assertEqual(client.ok("list_programs", session_id="a"), {"programs": [first]})
        self.assertEqual(client.ok("list_programs"), {"programs": []})
        inputs = {"who": "ada"}
        self.assert_refused(client, "not_found", first, "execute", session_id="b", program_id=first, inputs=inputs)
        self.assert_refused(client, "not_found", first, "delete_program", session_id="b", program_id=first)

    def test_creating_again_is_no_change_and_another_definition_a_conflict(self):
        client = self.start()
        first = client.ok("create_program", **GREET)
        self.assertEqual(client.ok("create_program", **GREET), first)
        self.assertEqual(client.ok("create_program", program_id="p", **GREET)["program_id"], "p")
        self.assertEqual(client.ok("create_program", program_id="p", wait_ms=0, **GREET)["program_id"], "p")
        self.assert_refused(client, "conflict", "`p`", "create_program", program_id="p", wait_ms=1, **GREET)

    def test_derived_ids_are_the_same_on_every_worker(self):
        ids = {self.start().ok("create_program", session_id="s", **GREET)["program_id"] for _ in range(2)}
        self.assertEqual(len(ids), 1)
        self.assertRegex(ids.pop(), "^[0-9a-f]{16}$")

    def test_health_counts_programs_and_sessions(self):
        client = self.start()
        client.ok("create_program", session_id="a", **GREET)
        client.ok("create_program", session_id="b", **GREET)
        client.ok("create_program", session_id="b", program_id="p", **GREET)
        health = client.ok("health_check")
        self.assertEqual((health["status"], health["pid"]), ("ok", client.process.pid))
        self.assertEqual((health["programs"], health["sessions"]), (3, 2))
        self.assertGreater(health["rss_kb"], 1000)
        self.assertGreaterEqual(health["uptime_ms"], 0)

    def test_a_waiting_program_waits(self):
        client = self.start()
        program_id = client.ok("create_program", wait_ms=20, **GREET)["program_id"]
        result = client.ok("execute", program_id=program_id, inputs={"who": "ada"})
        self.assertGreaterEqual(result["duration_ms"], 20)

    def test_wrong_requests_are_named(self):
        client = self.start()
        create = [
            ({}, "`signature`"),
            ({"signature": {"inputs": [], "outputs": []}}, "at least one"),
            ({"signature": {"inputs": ["a"], "outputs": [{"name": "b"}]}}, "`signature.inputs`"),
            ({"signature": {"inputs": [], "outputs": [{"name": "a"}, {"name": "a"}]}}, "of its own"),
            ({**GREET, "rule": {"other": {"op": "const", "value": 1}}}, "`rule`"),
            ({**GREET, "rule": {"greeting": {"op": "input", "name": "x"}}}, '"x"'),
            ({**GREET, "rule": {"greeting": {"op": "shell", "of": []}}}, '"shell"'),
            ({**GREET, "rule": {"greeting": {"op": "sum"}}}, "`of`"),
            ({**GREET, "rule": {"greeting": "who"}}, "an object"),
            ({**GREET, "rule": {"greeting": {"op": "concat", "of": [{"op": "const", "value": 1}] * 300}}}, "at most"),
            ({**GREET, "wait_ms": -1}, "`wait_ms`"),
            ({**GREET, "program_id": 5}, "`program_id`"),
            ({**GREET, "session_id": 5}, "`session_id`"),
        ]
        for args, part in create:
            with self.subTest(part=part):
                self.assert_refused(client, "invalid_request", part, "create_program", **args)
        program_id = client.ok("create_program", **GREET)["program_id"]
        for args, part in [({"inputs": {}}, "`who` is missing"), ({}, "`inputs`"), ({"inputs": [1]}, "`inputs`")]:
            with self.subTest(part=part):
                self.assert_refused(client, "invalid_request", part, "execute", program_id=program_id, **args)
        self.assert_refused(client, "invalid_request", "`program_id`", "execute", inputs={})
        self.assert_refused(client, "invalid_request", '"format_disk"', "format_disk")
        client.send_json({"id": "x", "command": "list_programs", "args": []})
        self.assertEqual(client.receive()["error"]["type"], "invalid_request")


class Rules(WorkerCase):
    def test_every_expression_has_a_value_for_every_input(self):
        a = {"op": "input", "name": "a"}
        big = 2**53
        cases = [
            ({"op": "const", "value": [1]}, None, [1]),
            (a, {"k": 1}, {"k": 1}),
            ({"op": "concat", "of": [a, a], "separator": "-"}, True, "true-true"),
            ({"op": "concat", "of": []}, None, ""),
            ({"op": "sum", "of": [a, {"op": "const", "value": "2.5"}]}, 1, 3.5),
            ({"op": "sum", "of": [a, {"op": "const", "value": "many"}]}, True, 1),
            ({"op": "sum", "of": [a, a]}, big, 2.0 * big),
            ({"op": "product", "of": [a, a, a]}, -3, -27),
            ({"op": "product", "of": [a, a]}, 1e300, sys.float_info.max),
            ({"op": "product", "of": []}, None, 1),
            ({"op": "upper", "of": a}, "straße", "STRASSE"),
            ({"op": "upper", "of": a}, None, ""),
            ({"op": "length", "of": a}, "ü1", 2),
            ({"op": "length", "of": a}, [1, 2, 3], 3),
            ({"op": "length", "of": a}, 1234, 4),
        ]
        client = self.start()
        for rule, value, expected in cases:
            with self.subTest(rule=rule, value=value):
                self.assertEqual(self.evaluate(client, rule, a=value), expected)

    def test_an_output_without_a_rule_is_all_inputs(self):
        client = self.start()
        signature = {"inputs": [{"name": "a"}, {"name": "b"}], "outputs": [{"name": "out"}]}
        program_id = client.ok("create_program", signature=signature)["program_id"]
        result = client.ok("execute", program_id=program_id, inputs={"a": "x", "b": 1})
        self.assertEqual(result["outputs"], {"out": "x 1"})


class Signals(WorkerCase):
    def test_sigterm_ends_an_idle_worker(self):
        client = self.start()
        client.ok("health_check")
        client.process.terminate()
        self.assertEqual(client.exit(), (0, ""))

    def test_sigterm_lets_the_current_call_finish(self):
        client = self.start()
        program_id = client.ok("create_program", wait_ms=300, **GREET)["program_id"]
        client.send("execute", program_id=program_id, inputs={"who": "ada"})
        self.assertFalse(client.readable(0.1), "the call is in progress")
        client.process.terminate()
        self.assertTrue(client.receive()["success"])
        self.assertEqual(client.exit(), (0, ""))

    def test_sigint_is_ignored(self):
        client = self.start()
        client.ok("health_check")
        client.process.send_signal(signal.SIGINT)
        self.assertEqual(client.ok("health_check")["status"], "ok")


class FaultFlags(WorkerCase):
    def test_latency_is_added(self):
        self.assertGreaterEqual(self.start("--latency-ms", 30).greet()["result"]["duration_ms"], 30)

    def test_an_injected_error_is_the_workers(self):
        error = self.start("--error-share", 1).greet()["error"]
        self.assertEqual(error, {"type": "worker_error", "message": "injected fault"})

    def test_wrong_outputs_keep_their_type(self):
        client = self.start("--wrong-share", 1)
        self.assertEqual(client.greet()["result"]["outputs"], {"greeting": "hello ada?"})
        a = {"op": "input", "name": "a"}
        self.assertEqual([self.evaluate(client, a, a=value) for value in (1, True, None)], [2, False, [None]])

    def test_a_crash_has_its_exit_code_and_no_reply(self):
        client = self.start("--crash-share", 1)
        program_id = client.ok("create_program", **GREET)["program_id"]
        client.send("execute", program_id=program_id, inputs={"who": "ada"})
        self.assertEqual(client.exit(), (70, ""))
        self.assertEqual(client.read(1), b"")

    def test_a_hang_gives_no_reply(self):
        client = self.start("--hang-share", 1)
        program_id = client.ok("create_program", **GREET)["program_id"]
        client.send("execute", program_id=program_id, inputs={"who": "ada"})
        self.assertFalse(client.readable(0.2))
        self.assertIsNone(client.process.poll())

    def test_garbage_is_no_frame(self):
        client = self.start("--garbage-share", 1)
        program_id = client.ok("create_program", **GREET)["program_id"]
        client.send("execute", program_id=program_id, inputs={"who": "ada"})
        self.assertGreater(int.from_bytes(client.read(4), "big"), MAX_FRAME)

    def test_a_leak_shows_in_resident_memory(self):
        client = self.start("--leak-kb", 8192)
        before = client.ok("health_check")["rss_kb"]
        for _ in range(3):
            client.greet()
        self.assertGreater(client.ok("health_check")["rss_kb"] - before, 20_000)

    def test_a_slow_start_delays_the_first_reply(self):
        client = self.start("--startup-ms", 400)
        client.send("health_check")
        self.assertFalse(client.readable(0.3))
        self.assertTrue(client.receive()["success"])

    def test_a_failed_start_says_so(self):
        code, stderr = self.start("--fail-start").exit()
        self.assertEqual(code, 1)
        self.assertIn("does not start", stderr)

    def test_chance_follows_the_seed(self):
        def outcomes(seed):
            client = self.start("--error-share", 0.5, "--seed", seed)
            return [client.greet()["success"] for _ in range(40)]

        first = outcomes(1)
        self.assertEqual(first, outcomes(1))
        self.assertNotEqual(first, outcomes(2))
        self.assertEqual(set(first), {True, False})

    def test_a_share_over_one_is_refused(self):
        code, stderr = self.start("--error-share", 1.5).exit()
        self.assertEqual(code, 2)
        self.assertIn("--error-share", stderr)


class FaultsFile(WorkerCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name, "faults.json")

    def write(self, text):
        """As a careful operator does: never half a file under its name."""
        draft = self.path.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.path)

    def test_faults_come_and_go_at_run_time(self):
        client = self.start("--faults", self.path)
        self.assertTrue(client.greet()["success"], "no file, no faults")
        self.write('{"error_share": 1}')
        self.assertFalse(client.greet()["success"])
        self.write('{"wrong-share": 1.0}')
        self.assertEqual(client.greet()["result"]["outputs"], {"greeting": "hello ada?"})
        self.path.unlink()
        self.assertEqual(client.greet()["result"]["outputs"], {"greeting": "hello ada"})

    def test_the_file_lies_over_the_flags(self):
        self.write('{"error_share": 0, "wrong_share": 1}')
        client = self.start("--error-share", 1, "--faults", self.path)
        self.assertEqual(client.greet()["result"]["outputs"], {"greeting": "hello ada?"})
        self.path.unlink()
        self.assertFalse(client.greet()["success"])

    def test_the_file_counts_at_the_start(self):
        self.write('{"fail_start": true}')
        self.assertEqual(self.start("--faults", self.path).exit()[0], 1)

    def test_a_file_that_cannot_be_used_changes_nothing(self):
        self.write('{"error_share": 1}')
        client = self.start("--faults", self.path)
        self.assertFalse(client.greet()["success"])
        broken = ['{"error_sha', "[]", '{"eror_share": 0}', '{"error_share": 7}', '{"fail_start": 0}', '{"seed": null}']
        for text in broken:
            self.write(text)
            self.assertFalse(client.greet()["success"], text)
        client.process.stdin.close()
        code, stderr = client.exit()
        self.assertEqual((code, stderr.count("is not used")), (0, len(broken)), stderr)


class Stdout(WorkerCase):
    def test_prints_do_not_reach_the_frames(self):
        """Whatever a program's code prints, by Python or by file descriptor, goes to stderr."""
        code = (
            "import os, sys; sys.path.insert(0, sys.argv.pop(1)); import worker; "
            "inner = worker.Worker.health_check; "
            "worker.Worker.health_check = lambda *a: (print('noise'), os.write(1, b'noise'), inner(*a))[2]; "
            "worker.main()"
        )
        request = b'{"id":1,"command":"health_check","args":{}}'
        run = subprocess.run(
            [sys.executable, "-c", code, str(WORKER.parent)],
            input=len(request).to_bytes(4, "big") + request,
            capture_output=True,
            timeout=DEADLINE_S,
            check=True,
        )
        self.assertEqual(int.from_bytes(run.stdout[:4], "big"), len(run.stdout) - 4)
        self.assertTrue(json.loads(run.stdout[4:])["success"])
        self.assertEqual(run.stderr.count(b"noise"), 2)


if __name__ == "__main__":
    unittest.main()
