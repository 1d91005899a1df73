"""Processes of a run on another machine: they end with their connection, and their end is known."""

import json
import os
import socket
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from bakeoff.compute.run import members, rank_host
from bakeoff.compute.run.handover import Given
from bakeoff.compute.run.rank_host import Elsewhere, RankHost, RemoteProcess, address_toward
from bakeoff.compute.run.rendezvous import found, interface_of, opened
from bakeoff.config.machine import MachineConfig
from bakeoff.store.records import Run
from bakeoff.store.scratch import is_alive

HERE = "127.0.0.1"
SAY = "import sys, json; asked = json.load(sys.stdin); "
SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def host(monkeypatch):
    """Return a function that starts a host whose processes run a line of Python."""
    hosts = []

    def make(code):
        monkeypatch.setattr(rank_host, "child", lambda _: [sys.executable, "-c", code])
        hosts.append(RankHost(HERE, "word", os.environ))
        return hosts[-1]

    monkeypatch.setattr(rank_host, "LAST_SECONDS", 0.1)
    yield make
    for one in hosts:
        one.close()


def process_of(host, word="word"):
    return RemoteProcess((host.address, host.port), word, {"rank": 1})


def gone(number):
    """Wait until no process has this number."""
    end = time.monotonic() + 30
    while is_alive(number):
        assert time.monotonic() < end
        time.sleep(0.01)


def number_in(file):
    """Return the process number that a process writes into a file, once it is there."""
    end = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(file.read_text())


def writes_number(file):
    return f"import os, pathlib; pathlib.Path({str(file)!r}).write_text(str(os.getpid())); {SLEEP}"


def test_what_a_process_says_how_it_ends_and_what_it_prints_come_back(host):
    code = SAY + "print(json.dumps(asked)); print('x' * 20_000 + 'why', file=sys.stderr); sys.exit(3)"
    said, status, printed = process_of(host(code)).outcome()
    asked = json.loads(said)
    assert (asked["rank"], status) == (1, 3)
    assert "word" not in asked
    assert printed.endswith("xwhy\n")
    assert len(printed) == rank_host.LOG_BYTES


def test_a_process_that_is_killed_on_a_machine_that_stays_has_its_signal(host):
    code = "import os; os.kill(os.getpid(), 9)"
    assert process_of(host(code)).outcome() == ("", -9, "")


def test_a_process_that_is_killed_by_a_machine_that_goes_is_gone_with_it(host, monkeypatch):
    going = host("import os; os.kill(os.getpid(), 9)")
    process = process_of(going)
    monkeypatch.setattr(process.over, "wait", lambda _: going.close())
    assert process.outcome() == ("", None, "")


def test_a_process_ends_with_its_connection(host, tmp_path):
    process = process_of(host(writes_number(tmp_path / "number")))
    number = number_in(tmp_path / "number")
    process.end(time.monotonic())
    gone(number)
    assert process.outcome()[1] is None


def test_a_host_that_ends_takes_its_processes_along_and_is_gone(host, tmp_path):
    going = host(writes_number(tmp_path / "number"))
    process = process_of(going)
    number = number_in(tmp_path / "number")
    going.close()
    assert process.outcome() == ("", None, "")
    gone(number)
    assert process_of(going).outcome() == ("", None, "")


WRONG = [b'{"word": "wrong"}', b'{"word": "w\xc3\xb6rd"}', b"[1]", b"no JSON", b"{}", b"[" * 100_000]


@pytest.mark.parametrize("line", WRONG, ids=range(len(WRONG)))
def test_who_does_not_know_the_word_starts_nothing(host, tmp_path, line):
    there = host(writes_number(tmp_path / "number"))
    with socket.create_connection((there.address, there.port)) as connection:
        connection.sendall(line + b"\n")
        assert connection.recv(1) == b""
    assert not (tmp_path / "number").exists()
    end = time.monotonic() + 30
    while there.connections:  # of which no thread is left
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_store_listens_at_one_address_alone(tmp_path):
    store, name = opened(HERE, 2, tmp_path)
    other = found(name, 2)
    store.set("key", "value")
    assert other.get("key") == b"value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(name.rpartition(":")[2])), timeout=10)


def test_the_interface_is_that_of_the_way_to_the_cluster():
    assert address_toward((HERE, 6379)) == HERE
    assert interface_of(HERE) == "lo"
    assert interface_of("192.0.2.1") is None


def test_ranks_are_dealt_out_by_machine_and_each_has_the_device_of_its_number_there(monkeypatch, tmp_path):
    run = Run("lora-1", "lora", "entry", "lora", {}, 0)
    config = SimpleNamespace(machine=MachineConfig(shards=6))
    folder = SimpleNamespace(place=tmp_path, plan=lambda: None)
    added = []
    monkeypatch.setattr(members, "planned_config", lambda *_: config)
    monkeypatch.setattr(members, "LocalProcess", lambda request: ("", asdict(request)))
    monkeypatch.setattr(members, "RemoteProcess", lambda place, word, request: (place[0], request))
    monkeypatch.setattr(members.Members, "add", lambda self, process, rank: added.append(process))
    monkeypatch.setattr(members.Members, "end", lambda self: None)
    monkeypatch.setattr(members, "lead", lambda work, members, team, meet, given: (team.rank, team.number))
    elsewhere = Elsewhere(HERE, 2, [("10.0.0.2", 1), ("10.0.0.3", 2)], "word")
    given = Given(elsewhere=elsewhere)
    assert members.in_team(lambda given: None, folder, run, "train", lambda event: None, given) == (0, 0)
    places = [(place, request["rank"], request["number"], request["address"]) for place, request in added]
    assert places == [
        ("", 1, 1, HERE),
        ("10.0.0.2", 2, 0, "10.0.0.2"), ("10.0.0.2", 3, 1, "10.0.0.2"),
        ("10.0.0.3", 4, 0, "10.0.0.3"), ("10.0.0.3", 5, 1, "10.0.0.3"),
    ]  # fmt: skip
    assert elsewhere.machines == 3
