"""One owner at a time, whatever is removed, replaced or looked at meanwhile."""

import os
import subprocess
import sys
import threading
import time

import pytest

from bakeoff.errors import SetupError
from bakeoff.store import lock
from bakeoff.store.lock import is_locked, locked
from bakeoff.store.run_folder import Folder

# Takes the folder for its own again and again, notes each time that another has it too, and removes it now and then.
OWNER = """
import os, random, shutil, sys, time
from pathlib import Path
from bakeoff.store import lock
from bakeoff.errors import SetupError

place, times = Path(sys.argv[1]), int(sys.argv[2])
lock.PATIENCE_SECONDS = 0.05
owned = twice = 0
print("ready", flush=True)
input()
while owned + twice < times:
    try:
        with lock.locked(place / "out/.lock"):
            try:
                os.close(os.open(place / "owner", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                twice += 1
            else:
                owned += 1
                time.sleep(random.random() / 500)
                (place / "owner").unlink()
            chance = random.random()
            if chance < 0.7:
                (place / "out/.lock").unlink(missing_ok=True)
            if chance < 0.4:
                (place / "out").rmdir()
    except SetupError:
        pass
print(owned, twice)
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "out/.lock"


def test_no_two_processes_own_a_folder_although_lock_and_folder_are_removed_all_the_time(tmp_path):
    command, pipe = [sys.executable, "-c", OWNER, str(tmp_path), "100"], subprocess.PIPE
    owners = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    assert [owner.stdout.readline() for owner in owners] == ["ready\n"] * 4
    for owner in owners:
        owner.stdin.write("\n")
        owner.stdin.flush()
    counts = [owner.communicate(timeout=300)[0].split() for owner in owners]
    assert all(owner.returncode == 0 for owner in owners)
    assert counts == [["100", "0"]] * 4


def test_a_lock_file_that_was_removed_or_replaced_lets_no_second_driver_in(file):
    with locked(file):
        for replace in (file.unlink, file.touch):
            replace()
            assert is_locked(file)
            with pytest.raises(SetupError, match="is running in this folder"):
                locked(file).__enter__()
            file.unlink(missing_ok=True)
    assert not is_locked(file)


def test_a_lock_file_that_is_a_link_is_not_followed(file, tmp_path):
    (tmp_path / "mine").write_text("mine")
    file.parent.mkdir()
    file.symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        locked(file).__enter__()
    assert (tmp_path / "mine").read_text() == "mine"


def test_who_looks_whether_a_bakeoff_runs_never_keeps_one_from_starting(file):
    """`watch` polls every half second; here as fast as it can."""
    ended = threading.Event()

    def look():
        while not ended.is_set():
            is_locked(file)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(50):
            with locked(file):
                pass
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()


def test_a_lock_left_by_an_owner_that_was_killed_is_free(file):
    code = (
        "import sys, time; from pathlib import Path; from bakeoff.store.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "in\n"
    assert is_locked(file)
    owner.kill()
    owner.communicate()
    assert not is_locked(Folder(file.parent).lock_file)
    with locked(file) as took_over:
        assert took_over.startswith(f"resumes after process {owner.pid} on ")


def test_a_lock_that_is_no_file_is_refused_and_never_waited_for(file, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 300.0)
    file.parent.mkdir()
    os.mkfifo(file)
    begun = time.monotonic()
    with pytest.raises(OSError, match="Invalid argument"):
        locked(file).__enter__()
    assert not is_locked(file)
    assert time.monotonic() - begun < 60
