"""A server under load and at its end: limits with their status, clients that leave, keys, and signals."""

import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import bakeoff
from bakeoff.cli.main import main
from bakeoff.data.prompt_format import Form
from bakeoff.errors import SetupError
from bakeoff.serving import listening, requests
from bakeoff.serving.settings import Settings
from bakeoff.serving.tokenizing import LONG
from tests.serving import DOCUMENT, Gate, call, complete, served, until

KEY = "k" * 32


@pytest.fixture
def server(shared):
    with served(shared[1].folder.path, rows=1, queue=1, seconds=20) as running:
        yield running


def rows(server):
    engine = server.opened.engine
    return engine.running + engine.waiting


def stream(server, **fields):
    """Return a connection that has sent a request for a stream."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    body = {"model": "shared/lora", "prompt": DOCUMENT, "stream": True} | fields
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    return connection


def test_a_full_queue_answers_429_and_every_place_is_free_again(server):
    with Gate(server.opened.engine) as gate, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(complete, server) for _ in range(2)]
        until(lambda: rows(server) == 2)
        status, headers, found = call(server, "POST", "/v1/completions", {"model": "shared", "prompt": DOCUMENT})
        assert (status, found["error"]["type"], found["error"]["code"]) == (429, "rate_limit_error", "queue_full")
        assert int(headers["retry-after"]) >= 1
        gate.open.set()
        assert [done.result()[0] for done in waiting] == [200, 200]
    assert complete(server)[0] == 200


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_row_whether_it_waits_or_is_written(server, streams):
    with Gate(server.opened.engine) as gate:
        clients = [stream(server, model="shared/base", stream=streams) for _ in range(2)]
        until(lambda: rows(server) == 2)
        gate.steps.release()
        until(lambda: server.opened.engine.running == 1)
        for client in clients:
            client.close()
        until(lambda: server.opened.engine.rows == {})  # else an output could end before its client is seen to be gone
        gate.open.set()
        until(lambda: rows(server) == 0)
    assert complete(server)[0] == 200
    until(lambda: 'status="499"' in call(server, "GET", "/metrics")[2])  # it is counted once the row is free


def test_a_request_that_takes_too_long_ends_with_504_or_an_event(shared):
    with served(shared[1].folder.path, seconds=0.3) as server, Gate(server.opened.engine):
        status, found = complete(server)
        assert (status, found["error"]["code"]) == (504, "timeout")
        text = complete(server, stream=True)[1]
        assert json.loads(text.split("data: ")[-1])["error"]["code"] == "timeout"
        with socket.create_connection((server.host, server.port), timeout=10) as raw:
            raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        b"Content-Length: 100\r\n\r\n{")  # fmt: skip
            assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_a_long_document_is_tokenized_apart_from_short_ones(server, monkeypatch):
    usual, begun, free = Form.documents, threading.Event(), threading.Event()

    def documents(form, texts):
        if max(map(len, texts)) > LONG:
            begun.set()
            assert free.wait(10)
        return usual(form, texts)

    monkeypatch.setattr(Form, "documents", documents)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(complete, server, prompt=DOCUMENT + " ba" * LONG)
        assert begun.wait(10)
        assert complete(server)[0] == 200
        assert not long.done()
        free.set()
        assert long.result()[0] == 200


def test_each_thread_has_a_tokenizer_of_its_own(shared):
    with served(shared[1].folder.path) as server:
        tokenizer, ids = server.opened.tokenizer, [5, 6, 7]
        threads = [tokenizer.thread(name) for name in ("a", "b")]
        own = [thread.submit(lambda: tokenizer.backend_tokenizer).result() for thread in threads]
        assert len({id(o) for o in (*own, tokenizer.backend_tokenizer)}) == 3
        assert {thread.submit(tokenizer.decode, ids).result() for thread in threads} == {tokenizer.decode(ids)}
        for thread in threads:
            thread.shutdown()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/adapters"])
def test_a_body_that_does_not_come_is_not_waited_for(server, monkeypatch, path):
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection((server.host, server.port), timeout=10) as raw:
        raw.sendall(head.encode() + b"{")
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_an_engine_that_fails_once_answers_500_and_then_writes_again(server, caplog):
    engine, step = server.opened.engine, server.opened.engine.step

    def broken():
        engine.step = step
        raise RuntimeError(f"a secret of {DOCUMENT}")

    engine.step = broken
    status, found = complete(server)
    assert (status, found["error"]["type"]) == (500, "server_error")
    assert complete(server)[0] == 200
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
    assert rows(server) == 0


def test_a_server_that_ends_finishes_what_it_writes(shared):
    with served(shared[1].folder.path) as server:
        whole = complete(server, model="shared/base")[1]["choices"][0]["text"]
        assert whole
        with Gate(server.opened.engine) as gate, contextlib.closing(stream(server, model="shared/base")) as client:
            until(lambda: rows(server) == 1)
            server.listener.should_exit = True
            until(lambda: not listens(server))
            gate.open.set()
            events = client.getresponse().read().decode().split("\n\n")
        assert events[-2] == "data: [DONE]"
        texts = [json.loads(event[6:])["choices"][0]["text"] for event in events[:-2]]
        assert "".join(texts) == whole


def listens(server):
    try:
        socket.create_connection((server.host, server.port), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_key_is_asked_for_but_not_by_the_page(shared, tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{'o' * 20}\n{KEY}\n\n")
    with served(shared[1].folder.path, api_key_file=file) as server:
        for path, status in (("/", 200), ("/page.js", 200), ("/health", 200), ("/v1/models", 401), ("/metrics", 401)):
            assert call(server, "GET", path)[0] == status
        status, headers, found = call(server, "POST", "/v1/adapters", {"model": "shared/lora"})
        assert (status, headers["www-authenticate"], found["error"]["type"]) == (401, "Bearer", "authentication_error")
        for given, status in ((f"Bearer {KEY}", 200), (f"bearer {'o' * 20}", 200), (f"Bearer {KEY}x", 401),
                              (f"Basic {KEY}", 401), ("Bearer", 401), ("Bearer \xff", 401), (KEY, 401)):  # fmt: skip
            assert call(server, "GET", "/v1/models", None, {"authorization": given})[0] == status


def test_names_of_other_hosts_and_pages_of_other_sites_are_refused(server):
    for headers, status in (
        ({"host": f"localhost:{server.port}"}, 200), ({"host": "[::1]"}, 200), ({"host": "127.0.0.1"}, 200),
        ({"host": "evil.example"}, 403), ({"host": "127.0.0.1.evil.example"}, 403), ({"host": ""}, 403),
        ({"host": "localhost@evil.example"}, 403), ({"host": "[::1"}, 403),
        ({"origin": server.url}, 200), ({"origin": "https://evil.example"}, 403), ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
    ):  # fmt: skip
        found = call(server, "GET", "/v1/models", None, headers)
        assert (found[0], headers) == (status, headers)
        assert "access-control-allow-origin" not in found[1]
        assert "default-src 'none'" in found[1]["content-security-policy"]
        assert found[1]["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"host": "0.0.0.0"}, "other machines can reach this address, so a key is needed"),
        ({"host": "::"}, "a key is needed"), ({"port": -1}, "port: expected at least 0"),
        ({"port": 70000}, "at most 65535"),
        ({"rows": 0}, "rows: expected at least 1"), ({"queue": -1}, "queue: expected at least 0"),
        ({"seconds": 0}, "seconds: expected seconds above 0"), ({"drain_seconds": float("nan")}, "drain_seconds"),
        ({"body_bytes": 0}, "body_bytes"), ({"output_tokens": 0}, "output_tokens"),
        ({"allow": "/srv"}, r"allow: expected a list of folders, got one. Try: \['/srv'\]"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(settings, line):
    with pytest.raises(SetupError, match=line):
        Settings(**settings)


def test_keys_that_are_none(tmp_path):
    for text in ("", "\n\n", "short\n", f"{KEY}\nshort"):
        (tmp_path / "keys").write_text(text)
        with pytest.raises(SetupError, match="expected one key per line, of at least 16 characters"):
            Settings(api_key_file=str(tmp_path / "keys")).keys()
    with pytest.raises(SetupError, match="expected one key per line"):
        Settings(api_key_file=Path("/dev/zero")).keys()
    with pytest.raises(SetupError, match="No such file"):
        Settings(api_key_file=tmp_path / "none").keys()


def refused(*words):
    """Return the one line that the command ends with."""
    done = CliRunner().invoke(main, ["serve", *map(str, words)])
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


def test_the_command_says_in_one_line_why_it_cannot_serve(shared, copied, tmp_path):
    folder, keys = shared[1].folder.path, tmp_path / "keys"
    keys.write_text(KEY)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "Address already in use. Try: another --port" in refused(folder, "--port", taken.getsockname()[1])
    assert str(tmp_path / "none") in refused(tmp_path / "none", "--port", 0)
    assert "a key is needed" in refused(folder, "--host", "0.0.0.0")
    assert "Try: --host 127.0.0.1" in refused(folder, "--host", "no.such.host.invalid", "--api-key-file", keys)
    (copied.path / ".bakeoff").unlink()
    assert "Try: read it, then add --trust" in refused(copied.path, "--port", 0)


def test_a_damaged_adapter_is_not_served_and_the_others_are(copied, caplog):
    run = copied.run(next(run.id for run in copied.runs() if run.entry == "lora"))
    weights = run.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING), served(copied.path) as server:
        assert "shared/lora: is not served: " in caplog.text
        assert "shared/last_layers" in server.models
        assert "shared/lora" not in server.models
        assert complete(server, model="shared/last_layers")[0] == 200
        (run.adapter / "adapter_model.bin").write_bytes(b"\x80\x04.")
        status, _, found = call(server, "POST", "/v1/adapters", {"model": "shared/lora"})
        assert status == 400
        assert str(run.adapter) in found["error"]["message"]


def test_a_folder_with_a_damaged_adapter_is_loaded_whole_or_not_at_all(shared, copied, tmp_path, caplog):
    run = copied.run(next(run.id for run in copied.runs() if run.entry == "lora"))
    weights = run.adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with served(f"one={shared[1].folder.path}", allow=[str(copied.path)]) as server:
        before = server.opened.engine.names
        ask = {"folder": str(copied.path)}
        assert call(server, "POST", "/v1/adapters", ask)[0] == 400
        assert server.opened.engine.names == before
        weights.write_bytes(whole)
        with caplog.at_level(logging.INFO):
            status, _, found = call(server, "POST", "/v1/adapters", ask)
        assert status == 200
        assert {*before} <= {row["id"].replace("shared/", "one/") for row in found["data"]}
        assert "loaded: shared/" in caplog.text
        assert call(server, "POST", "/v1/adapters", {"model": "shared"})[2]["error"]["message"].startswith(
            "model: expected NAME/ENTRY, got 'shared'"
        )


def test_a_connection_that_sends_no_whole_head_is_closed_and_a_running_request_is_not(shared, monkeypatch):
    monkeypatch.setattr(listening, "KEEP_ALIVE", 0.3)
    head = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    with served(shared[1].folder.path) as server, contextlib.ExitStack() as stack:
        silent, begun, again = (
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=10)) for _ in range(3)
        )
        begun.sendall(head)
        again.sendall(head + b"\r\n" + head)
        with Gate(server.opened.engine) as gate, ThreadPoolExecutor(1) as pool:
            slow = pool.submit(complete, server)
            assert (silent.recv(1000), begun.recv(1000)) == (b"", b"")
            assert b"".join(iter(lambda: again.recv(1000), b"")).count(b"HTTP/1.1 200") == 1
            gate.open.set()
            assert slow.result()[0] == 200


def test_no_thread_and_no_task_is_left(shared):
    before = {*threading.enumerate()}
    with served(shared[1].folder.path, rows=2) as server:
        with Gate(server.opened.engine):
            clients = [stream(server) for _ in range(3)]
            until(lambda: rows(server) == 3)
            for client in clients:
                client.close()
        until(lambda: rows(server) == 0)
        assert complete(server)[0] == 200
    until(lambda: {t for t in threading.enumerate() if t.is_alive()} <= before)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def commanded(folder, port, act):
    """Return what `bakeoff serve` printed and logged; `act` is called beside it with its place, and sends signals."""
    place, failed = SimpleNamespace(host="127.0.0.1", port=port), []

    def beside():
        try:
            until(lambda: listens(place) and call(place, "GET", "/health")[0] == 200)
            act(place)
        except BaseException as error:
            failed.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=beside)
    thread.start()
    try:
        done = CliRunner().invoke(main, ["serve", str(folder), "--port", str(port)])
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert failed == []
    return done


def test_the_command_drains_at_a_first_signal_and_its_log_has_no_texts(shared):
    def act(place):
        assert complete(place)[0] == 200
        os.kill(os.getpid(), signal.SIGTERM)

    port = free_port()
    done = commanded(shared[1].folder.path, port, act)
    assert (done.exit_code, done.stdout) == (0, f"http://127.0.0.1:{port}\n")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("models: shared, shared/base, shared/")
    assert lines[1].startswith("/v1/completions 200 shared/lora ")
    assert DOCUMENT not in done.stderr


def test_a_second_signal_ends_the_command_at_once(shared, monkeypatch):
    from bakeoff.compute.serving.engine import Engine

    monkeypatch.setattr(Engine, "step", lambda engine: time.sleep(0.002) or [])

    def act(place):
        with contextlib.closing(stream(place)) as client:
            client.getresponse()  # its head; nothing more comes
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: not listens(place))
            os.kill(os.getpid(), signal.SIGTERM)
            client.close()

    began = time.monotonic()
    assert commanded(shared[1].folder.path, free_port(), act).exit_code == 0
    assert time.monotonic() - began < 25  # it drains for 30 seconds


def test_without_the_extra_it_says_how_to_get_it(shared, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in ("bakeoff.serving.server", "bakeoff.serving.listening"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SetupError, match=r"uvicorn is not installed. Try: pip install bakeoff\[serve\]"):
        bakeoff.serve(shared[1].folder.path)
