"""What a server refuses: each bad request by a status, the field's name and one line, and nothing that ends it."""

import json
import logging
import socket
from types import SimpleNamespace

import openai
import pytest

from bakeoff.serving.prompting import document_of
from bakeoff.serving.requests import Completion
from tests.serving import DOCUMENT, call, complete, served

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": DOCUMENT}


@pytest.fixture(scope="module")
def server(shared):
    with served(shared[1].folder.path, rows=2, body_bytes=200_000, output_tokens=40) as running:
        yield running


# fields, what is wrong (a part of the message), the field that is named
COMPLETIONS = [
    ({"model": None}, "expected text, got nothing", "model"),
    ({"model": 3}, "expected text", "model"),
    ({"model": ""}, "at least 1 character", "model"),
    ({"prompt": None}, "prompt", "prompt.str"),
    ({"prompt": " \n "}, "is blank", "prompt"),
    ({"prompt": ["a", "b"]}, "expected at most 1, got 2", "prompt"),
    ({"prompt": [[1, 2]]}, "expected text", "prompt"),
    ({"prompt": {"text": "a"}}, "prompt", "prompt"),
    ({"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
    ({"max_tokens": -1}, "greater than or equal to 1", "max_tokens"),
    ({"max_tokens": 2.5}, "whole number", "max_tokens"),
    ({"max_tokens": "8"}, "whole number", "max_tokens"),
    ({"max_tokens": True}, "whole number", "max_tokens"),
    ({"max_tokens": 10**30}, "at most 40 on this server", "max_tokens"),
    ({"max_tokens": 41}, "at most 40 on this server, got 41", "max_tokens"),
    ({"max_tokens": 40, "prompt": "ba " * 60}, "do not fit after a prompt of 4", "max_tokens"),
    ({"prompt": "ba " * 80, "raw": True}, "has 80 tokens, and the model reads 64", "prompt"),
    ({"temperature": -0.1}, "greater than or equal to 0", "temperature"),
    ({"temperature": 2.1}, "less than or equal to 2", "temperature"),
    ({"temperature": "hot"}, "expected a number", "temperature"),
    ({"temperature": True}, "expected a number", "temperature"),
    ({"top_p": 0}, "greater than 0", "top_p"),
    ({"top_p": 1.5}, "less than or equal to 1", "top_p"),
    ({"seed": 2**63}, "less than", "seed"),
    ({"seed": 1.5}, "whole number", "seed"),
    ({"stop": ""}, "at least 1 character", "stop"),
    ({"stop": ["a", ""]}, "at least 1 character", "stop.1"),
    ({"stop": ["a"] * 5}, "expected at most 4, got 5", "stop"),
    ({"stop": 3}, "stop", "stop"),
    ({"stream": "yes"}, "true or false", "stream"),
    ({"stream_options": {"include_usage": True}}, "only with stream", "stream_options"),
    ({"stream": True, "stream_options": {"usage": True}}, "not permitted", "stream_options"),
    ({"n": 2}, "is not supported. Allowed: 1", "n"),
    ({"n": True}, "is not supported", "n"),
    ({"best_of": 3}, "is not supported", "best_of"),
    ({"echo": True}, "is not supported. Allowed: false", "echo"),
    ({"logprobs": 1}, "is not supported", "logprobs"),
    ({"suffix": "x"}, "is not supported", "suffix"),
    ({"logit_bias": {"1": 5}}, "is not supported", "logit_bias"),
    ({"presence_penalty": 0.5}, "is not supported", "presence_penalty"),
    ({"user": "me"}, "is not supported", "user"),
    ({"temprature": 0}, "unknown field 'temprature'. Did you mean 'temperature'?", "temprature"),
    ({"messages": [USER]}, "unknown field 'messages'", "messages"),
    ({"columns": {"document": "x"}}, "is the document, which is the prompt", "columns"),
    ({"columns": {"a": 1}, "raw": True}, "a raw prompt has none", "columns"),
    ({"columns": [1]}, "expected keys and values", "columns"),
    ({"raw": "yes"}, "true or false", "raw"),
    ({"x" * 1000: 1}, "unknown field", "x" * 80),
]  # fmt: skip
MESSAGES = [
    (None, "messages"), ([], "one or more"), ("hello", "a list"), ([3], "keys and values"), ([{}], "'role' is missing"),
    ([{"role": "user"}], "'content' is missing"), ([{"content": "a"}], "'role' is missing"),
    ([{"role": "robot", "content": "a"}], "unknown role 'robot'"), ([{"role": 3, "content": "a"}], "unknown role"),
    ([{"role": "user", "content": 3}], "expected text"), ([{"role": "user", "content": " "}], "is empty"),
    ([{"role": "user", "content": None}], "expected text"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "type 'image_url'"),
    ([USER | {"name": "me"}], "has 'name'"), ([USER | {"tool_calls": [1]}], "has 'tool_calls'"),
    ([USER, {"role": "assistant", "content": "a"}], "end with an answer"),
    ([USER, {"role": "assistant", "content": "a"}, USER], "expected one message"),
    ([{"role": "system", "content": "a"}, USER], "expected one message"),
    ([{"role": "system", "content": "a"}], "has a system text only"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message", "param"), COMPLETIONS)
def test_completions_name_the_field(server, fields, message, param):
    status, found = complete(server, **fields)
    assert status == 400
    assert message in found["error"]["message"]
    assert "\n" not in found["error"]["message"]
    assert found["error"]["param"].split(".")[0] == param.split(".")[0]
    assert found["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("messages", "message"), MESSAGES)
def test_messages_that_are_no_document(server, messages, message):
    status, _, found = call(server, "POST", CHAT, {"model": "shared", "messages": messages})
    assert status == 400
    assert message in found["error"]["message"]
    assert found["error"]["param"].startswith("messages")


def test_fields_of_a_chat_alone(server):
    for fields, param in (
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"), ({"prompt": "a"}, "prompt"),
        ({"tools": [{"type": "function"}]}, "tools"), ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"raw": True}, "raw"),
    ):  # fmt: skip
        status, _, found = call(server, "POST", CHAT, {"model": "shared", "messages": [USER]} | fields)
        assert (status, found["error"]["param"]) == (400, param)
    neutral = {"n": 1, "tools": [], "response_format": {"type": "text"}, "logprobs": False, "presence_penalty": 0}
    assert call(server, "POST", CHAT, {"model": "shared", "messages": [USER]} | neutral)[0] == 200


BODIES = [
    (b"", 400, "not JSON"), (b"[1]", 400, "expected a JSON object"), (b"{", 400, "not JSON"), (b"\xff", 400, "UTF-8"),
    (b"null", 400, "expected a JSON object"), (b"[" * 100_000, 400, "nested too deeply"),
    (b'{"a":' * 30_000, 400, "nested too deeply"), (b'{"temperature": NaN}', 400, "NaN is not a number"),
    (b'{"temperature": -Infinity}', 400, "not a number"), (b'{"model": "a", "model": "b"}', 400, "occurs twice"),
    (b'{"max_tokens": ' + b"9" * 10_000 + b"}", 400, "not JSON"), (b'{"prompt": "\\ud800"}', 400, "surrogate"),
    (b'{"prompt": "' + b"a" * 200_000 + b'"}', 413, "larger than 200,000 bytes"),
    (b'{"temperature": 1e999, "model": "shared", "prompt": "a"}', 400, "temperature"),
    (b'{"columns": {"a": ' + b"[" * 800 + b"]" * 800 + b"}}", 400, "nested more than 64 times"),
    (b'{"messages": ' + b'[{"a": ' * 400 + b"1" + b"}]" * 400 + b"}", 400, "nested more than 64 times"),
    (b'{"columns": {"\\udc00": 1}}', 400, "surrogate"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "status", "message"), BODIES)
def test_bodies_that_are_none(server, content, status, message):
    found = call(server, "POST", TEXT, content)
    assert found[0] == status
    assert message in found[2]["error"]["message"]
    assert call(server, "GET", "/health")[0] == 200


def test_a_seed_below_zero_and_a_temperature_near_zero_are_drawn_with(server):
    ask = {"model": "shared/lora", "prompt": "ba be bi", "max_tokens": 20}
    drawn = [call(server, "POST", TEXT, ask | {"temperature": 2, "seed": -5})[::2] for _ in range(2)]
    assert [status for status, _ in drawn] == [200, 200]
    assert drawn[0][1]["choices"] == drawn[1][1]["choices"]
    likeliest, nearly = (call(server, "POST", TEXT, ask | {"temperature": t, "seed": 1})[2] for t in (0, 5e-324))
    assert nearly["choices"] == likeliest["choices"]


def test_a_body_of_unknown_length_is_limited_too(server):
    with socket.create_connection((server.host, server.port), timeout=10) as raw:
        raw.sendall(f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    "Transfer-Encoding: chunked\r\n\r\n".encode())  # fmt: skip
        part = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        raw.sendall(part * 4)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_requests_that_are_no_http_or_smuggle_headers_end_in_400(server):
    post = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n".encode()
    get = b"GET / HTTP/1.1\r\n"
    for text in (
        b"\x16\x03\x01\r\n\r\n", get + b"Host: a\r\nHost: b\r\n\r\n", post + b"Content-Length: 6\r\n\r\nhello",
        post + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", get + b"Host: localhost\r\nA: b\x00c\r\n\r\n",
        get + b"a: b\r\n" * 20_000 + b"\r\n",
    ):  # fmt: skip
        with socket.create_connection((server.host, server.port), timeout=10) as raw:
            raw.sendall(text)
            assert raw.recv(100).startswith(b"HTTP/1.1 4")
    assert call(server, "GET", "/health")[0] == 200


def test_other_paths_methods_and_kinds(server):
    for method, path, status in (
        ("GET", TEXT, 405), ("DELETE", TEXT, 405), ("GET", "/v1/nothing", 404), ("GET", "/../etc/passwd", 404),
        ("POST", "/v1/models", 405), ("GET", "/page.html", 404), ("PUT", "/v1/adapters", 405),
    ):  # fmt: skip
        found = call(server, method, path)
        assert (found[0], "message" in found[2]["error"]) == (status, True)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert call(server, "POST", TEXT, b"{}", {"content-type": kind})[0] == 415


def test_adapters_are_loaded_only_from_known_folders(server, tmp_path):
    for body, status in (
        ({"folder": "/etc"}, 403), ({"folder": str(tmp_path)}, 403), ({"folder": "../../.."}, 403), ({}, 400),
        ({"folder": "a\0b"}, 403), ({"model": "nothing/lora"}, 404), ({"model": "shared/nothing"}, 404),
        ({"model": "shared/lora"}, 409), ({"model": "shared/lora", "folder": "/etc"}, 400), ({"model": 3}, 400),
        ({"model": "shared/lora", "entry": "lora"}, 400), ({"path": "/etc"}, 400), ({"model": "../x/y"}, 404),
        ({"model": "shared/base"}, 409),
    ):  # fmt: skip
        found = call(server, "POST", "/v1/adapters", body)
        assert found[0] == status, (body, found[2])


def test_other_columns_of_a_row_go_with_its_document():
    prompts = SimpleNamespace(turns=None, columns=SimpleNamespace(document="text"))
    model = SimpleNamespace(prompts=prompts)
    asked = Completion(model="m", prompt="a document", columns={"title": "a title"})
    assert document_of(model, asked) == {"text": "a document", "title": "a title"}
    assert document_of(model, asked.model_copy(update={"columns": None})) == "a document"


def test_texts_of_every_script_and_control_characters_have_outputs(server):
    for text in (
        "ba \0 be",
        "\u202e ba \u0000",
        "\U0001d518 😀 漢字 العربية",
        "<|endoftext|> ba",
        "{{ document }} {% x %}",
        "\ufeffba",
        "ba\r\nbe",
    ):
        status, found = complete(server, prompt=text)
        assert (status, found["choices"][0]["finish_reason"]) in ((200, "stop"), (200, "length"))


def test_openais_client_raises_its_own_errors(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="no model 'shared/lara'. Did you mean 'shared/lora'?"):
            client.completions.create(model="shared/lara", prompt=DOCUMENT)
        with pytest.raises(openai.BadRequestError, match="unknown field 'echoo'"):
            client.completions.create(model="shared", prompt=DOCUMENT, extra_body={"echoo": 1})


def test_nothing_of_a_request_is_logged(server, caplog):
    caplog.set_level(logging.DEBUG)
    complete(server, prompt="ba be verysecret", stop="verysecret")
    complete(server, model="verysecret")
    complete(server, verysecret="verysecret")
    call(server, "GET", "/verysecret?verysecret=1")
    call(server, "POST", TEXT, b'{"verysecret"')
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("bakeoff", "uvicorn"))]
    assert next(line.split(" ")[:3] for line in lines if line.startswith(TEXT)) == [TEXT, "200", "shared/lora"]
    assert "verysecret" not in json.dumps(lines)
