"""`bakeoff serve`: outputs are those of `generate`, whole and streamed, and OpenAI's own client understands them."""

import json
import random

import openai
import pytest

import bakeoff
from bakeoff.errors import DataError, SetupError
from bakeoff.testing.chats import save_chat_base
from tests.conftest import WORDS, make_rows, write_rows
from tests.serving import DOCUMENT, LONG, call, complete, served, until

ENTRIES = ("prompt_tuning", "last_layers", "lora")
DOCUMENTS = [DOCUMENT, LONG, "zu", *(row["document"] for row in make_rows(3, 7))]


@pytest.fixture(scope="module")
def server(shared):
    with served(shared[1].folder.path, rows=4) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def wanted(shared):
    """What `generate` writes, by entry and document."""
    texts = {entry: shared[1].entry(entry).load().generate(DOCUMENTS) for entry in ENTRIES}
    assert len({text for own in texts.values() for text in own if text}) > 3  # else equal outputs would say little
    return {entry: dict(zip(DOCUMENTS, own, strict=True)) for entry, own in texts.items()}


def test_each_entry_is_a_model_and_the_recommended_one_has_the_bakeoffs_name(server, client, shared):
    names = [model.id for model in client.models.list()]
    entries = [*shared[1].entries, "few-shot-2"]
    assert names == ["shared", "shared/base", *(f"shared/{entry}" for entry in entries)]
    assert server.models == names
    assert client.models.retrieve("shared/lora").owned_by == "bakeoff"
    assert call(server, "GET", "/v1/models/shared")[2]["entry"] == shared[1].best().name
    row = call(server, "GET", "/v1/models/shared/lora")[2]
    assert row["method"] == "lora"
    assert row["score"] == shared[1].entries["lora"].metrics["test/rougeL"].mean
    row = shared[1].document.baselines["base"]
    assert call(server, "GET", "/v1/models/shared/base")[2]["score"] == row.metrics["test/rougeL"].mean
    assert call(server, "GET", "/v1/models/shared/no")[0] == 404


@pytest.mark.parametrize("entry", ENTRIES)
def test_outputs_are_those_of_generate_whole_and_streamed(client, wanted, entry):
    for document, text in wanted[entry].items():
        whole = client.completions.create(model=f"shared/{entry}", prompt=document)
        assert whole.choices[0].text == text
        usage = {"include_usage": True}
        events = [*client.completions.create(model=whole.model, prompt=document, stream=True, stream_options=usage)]
        assert "".join(e.choices[0].text for e in events if e.choices) == text
        assert events[-1].usage == whole.usage
        assert [e.choices[0].finish_reason for e in events if e.choices][-1] == whole.choices[0].finish_reason
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        cut = whole.usage.prompt_tokens_details.cut_tokens
        assert (cut > 0) == (document == LONG)


def test_a_user_message_is_the_document(client, wanted, shared):
    best = shared[1].best().name
    messages = [{"role": "user", "content": DOCUMENT}]
    whole = client.chat.completions.create(model="shared", messages=messages)
    assert whole.choices[0].message.content == wanted[best][DOCUMENT]
    assert whole.choices[0].message.role == "assistant"
    events = [*client.chat.completions.create(model="shared", messages=messages, stream=True)]
    assert "".join(e.choices[0].delta.content or "" for e in events) == wanted[best][DOCUMENT]
    parts = [
        {"role": "user", "content": [{"type": "text", "text": DOCUMENT[:5]}, {"type": "text", "text": DOCUMENT[5:]}]}
    ]
    again = client.chat.completions.create(model="shared", messages=parts, max_completion_tokens=2)
    assert again.usage.completion_tokens <= 2


def test_many_clients_at_once_get_each_the_output_of_its_own_entry(server, wanted):
    from concurrent.futures import ThreadPoolExecutor

    asked = [(entry, document) for entry in ENTRIES for document in DOCUMENTS] * 2
    random.Random(0).shuffle(asked)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda pair: complete(server, model=f"shared/{pair[0]}", prompt=pair[1])[1], asked)
    assert [f["choices"][0]["text"] for f in found] == [wanted[entry][document] for entry, document in asked]


def test_an_output_ends_before_the_first_stop_text_wherever_token_borders_are(server):
    chosen = random.Random(1)
    for case in range(12):
        fields = {"model": "shared/base", "temperature": 1.2, "seed": case, "max_tokens": 12}
        text = complete(server, **fields)[1]["choices"][0]["text"]
        start = chosen.randrange(len(text) - 1)
        stop = text[start : start + chosen.randint(1, 5)]
        expected = text[: text.index(stop)].rstrip()
        fields |= {"stop": [stop, "never said"]}
        found = complete(server, **fields)[1]["choices"][0]
        assert (found["text"], found["finish_reason"]) == (expected, "stop")
        streamed = events_of(complete(server, stream=True, **fields)[1])
        assert "".join(e["choices"][0]["text"] for e in streamed) == expected


def events_of(text):
    """Return the events of a stream; it must be whole."""
    *events, last, end = text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_a_seed_makes_a_drawn_output_again_and_the_default_draws_nothing(client, wanted):
    def drawn(seed, **more):
        fields = {"model": "shared/base", "prompt": DOCUMENT, "temperature": 1.5, "seed": seed, "max_tokens": 8} | more
        return client.completions.create(**fields).choices[0].text

    assert drawn(3) == drawn(3)
    assert len({drawn(seed) for seed in range(6)}) > 1
    assert drawn(1, top_p=1e-9) == drawn(2, temperature=0)


def test_a_raw_prompt_is_read_as_it_stands(client, shared):
    template = shared[1].folder.plan().template
    text = template.replace("{{ document }}", DOCUMENT)
    whole = client.completions.create(model="shared/lora", prompt=DOCUMENT)
    raw = client.completions.create(model="shared/lora", prompt=text, extra_body={"raw": True})
    assert raw.choices[0].text == whole.choices[0].text
    assert raw.usage.prompt_tokens == whole.usage.prompt_tokens
    assert client.completions.create(
        model="shared/lora", prompt=DOCUMENT, extra_body={"raw": True}
    ).usage.prompt_tokens < raw.usage.prompt_tokens  # fmt: skip


def test_an_adapter_leaves_and_comes_back_while_others_write(server, wanted):
    assert call(server, "DELETE", "/v1/adapters/shared/last_layers")[0] == 200
    status, found = complete(server, model="shared/last_layers")
    assert (status, found["error"]["param"]) == (404, "model")
    assert complete(server)[1]["choices"][0]["text"] == wanted["lora"][DOCUMENT]
    assert call(server, "DELETE", "/v1/adapters/shared/last_layers")[0] == 404
    assert call(server, "DELETE", "/v1/adapters/shared/base")[0] == 404
    status, _, found = call(server, "POST", "/v1/adapters", {"model": "shared/last_layers"})
    assert (status, [row["id"] for row in found["data"]]) == (200, ["shared/last_layers"])
    assert complete(server, model="shared/last_layers")[1]["choices"][0]["text"] == wanted["last_layers"][DOCUMENT]
    assert call(server, "POST", "/v1/adapters", {"model": "shared/last_layers"})[0] == 409
    assert len(call(server, "GET", "/v1/adapters")[2]["data"]) == 3


def test_health_and_figures(server):
    before = call(server, "GET", "/metrics")[2]
    complete(server)
    complete(server, model="x" * 100)
    assert call(server, "GET", "/health")[2] == {"status": "ok"}
    text = call(server, "GET", "/metrics")[2]
    value = 'bakeoff_requests_total{model="shared/lora",status="200"} '
    counts = [float(part.partition(value)[2].split("\n")[0] or 0) for part in (before, text)]
    assert counts[1] == counts[0] + 1
    assert 'bakeoff_requests_total{model="unknown",status="404"}' in text
    assert "xxx" not in text  # what a client makes up is no label
    for name in ("queue_rows", "running_rows", "batch_rows_bucket", "output_tokens_total", "first_token_seconds_sum"):
        assert f"bakeoff_{name}" in text


def test_a_newly_finished_entry_is_picked_up(copied, wanted):
    run = copied.run(next(run.id for run in copied.runs() if run.entry == "lora"))
    aside = run.result_file.rename(run.result_file.with_name("aside"))
    with served(copied.path) as server:
        assert "shared/lora" not in server.models
        assert complete(server)[0] == 404
        assert call(server, "POST", "/v1/adapters", {"model": "shared/lora"})[0] == 404
        aside.rename(run.result_file)
        assert call(server, "POST", "/v1/adapters", {"folder": str(copied.path)})[0] == 200
        assert complete(server)[1]["choices"][0]["text"] == wanted["lora"][DOCUMENT]


def test_two_bakeoffs_share_a_base_and_need_names_of_their_own(shared, copied, tmp_path):
    with pytest.raises(SetupError, match="is named 'shared', as .* is. Try: give one a name of its own, shared-2="):
        bakeoff.serve(shared[1].folder.path, copied.path, port=0)
    with served(shared[1].folder.path, f"second={copied.path}", allow=(tmp_path,)) as server:
        assert {"shared/lora", "second/lora", "second"} <= {*server.models}
        texts = [complete(server, model=name)[1]["choices"][0]["text"] for name in ("shared/lora", "second/lora")]
        assert texts[0] == texts[1]


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A bakeoff made on conversations, on another base, and the first turns of one."""
    place, chosen = tmp_path_factory.mktemp("talk"), random.Random(5)
    save_chat_base(place / "chat", "chatml")

    def conversation():
        roles = ("user", "assistant", "user", "assistant")
        return [{"role": role, "content": " ".join(chosen.choices(WORDS, k=3))} for role in roles]

    sizes = {"train": 4, "validation": 2, "test": 2}
    rows = {split: [{"messages": conversation()} for _ in range(n)] for split, n in sizes.items()}
    files = {split: str(write_rows(place / f"{split}.jsonl", own)) for split, own in rows.items()}
    config = {"name": "talk", "model": str(place / "chat"), "data": {**files, "messages": "messages"},
              "entries": {"lora": {"r": 2, "learning_rate": 0.01}}, "tune": None, "output": str(place / "talk"),
              "baselines": ["base"], "protocol": {"epochs": 1, "max_tokens": 120, "seeds": 1},
              "generation": {"max_new_tokens": 12}}  # fmt: skip
    return bakeoff.run(config, display="none"), conversation()[:3]


def test_turns_of_a_conversation_are_those_of_the_evaluation(talk):
    results, messages = talk
    question = messages[0]["content"]
    text, alone = results.entry("lora").load().generate([messages, question])

    def chat(server, **fields):
        body = {"model": "talk", "messages": messages} | fields
        status, _, found = call(server, "POST", "/v1/chat/completions", body)
        return (status, found["choices"][0]["message"]["content"] if status == 200 else found["error"]["message"])

    with served(results.folder.path) as server:
        assert chat(server) == (200, text)
        assert chat(server, raw=True) == (200, text)  # the bakeoff adds nothing to turns
        assert complete(server, model="talk/lora", prompt=question)[1]["choices"][0]["text"] == alone
        rest = events_of(call(server, "POST", "/v1/chat/completions",
                              {"model": "talk", "messages": messages, "stream": True})[2])  # fmt: skip
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in rest) == text
        status, line = chat(server, messages=[*messages, {"role": "assistant", "content": "ba"}])
        assert (status, "end with an answer" in line) == (400, True)
        status, line = chat(server, messages=messages[1:])
        assert (status, "begins with a turn of 'assistant'" in line) == (400, True)


def test_a_bakeoff_of_another_base_is_refused(shared, talk):
    with pytest.raises(SetupError, match="has another base .* than the bakeoffs that are served"):
        bakeoff.serve(shared[1].folder.path, talk[0].folder.path, port=0)


def test_a_server_in_a_context_ends_with_it(shared):
    with served(shared[1].folder.path) as server:
        place = server.url
    assert not server.thread.is_alive()
    with pytest.raises(OSError, match="refused"):
        call(server, "GET", "/health")
    assert place.startswith("http://127.0.0.1:")
    until(lambda: not server.thread.is_alive())


def test_entries_share_a_base_without_a_server(shared, wanted):
    entries = bakeoff.load_entries(shared[1].folder.path)
    for entry in (*ENTRIES, *reversed(ENTRIES)):
        texts = entries.generate([*DOCUMENTS, " "], f"shared/{entry}")
        assert texts == [*wanted[entry].values(), ""]
    assert entries.generate([], "shared") == []
    assert entries.generate([DOCUMENT], "shared") == [wanted[shared[1].best().name][DOCUMENT]]
    with pytest.raises(SetupError, match="shared/lara: is not loaded. Did you mean 'shared/lora'?"):
        entries.generate([DOCUMENT], "shared/lara")
    with pytest.raises(DataError, match="got one text"):
        entries.generate(DOCUMENT, "shared/lora")
