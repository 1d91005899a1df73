"""The server of runs that need a model: imports the heavy libraries before it is asked for a run.

`python -P -m bakeoff.compute.run.process [--once] DEVICE [PLACE...]` carries out requests (see `request`). Where torch
finds no accelerator it forks the processes of runs, which share the memory of libraries and base (see `holder`).
Elsewhere, or with --once, it says {"once": true}, carries out the one run itself, and ends: after an accelerator was
touched, which bitsandbytes does when it is imported, no forked process can use it.

A server that can carry out no run says {"refused": reason}. It is a program of its own and does not use
`multiprocessing`, whose children import the user's main script again and use pickles.
"""

import argparse
import os
import sys
from typing import TextIO

import peft
import torch
import transformers

from bakeoff.compute.model.device import choose, initialized, visible
from bakeoff.compute.run import worker
from bakeoff.compute.run.holder import serve_from_base
from bakeoff.compute.run.request import carry_out, open_channel, say
from bakeoff.errors import BakeoffError, SetupError

PRELOADED = (peft, torch, transformers, worker)


def forks(device: str) -> bool:
    """Return whether runs on this device are forked: on the processor, where torch finds no accelerator.

    Where it finds one, optimizers ask it for its stream at every step, whatever they train on.
    """
    return choose(device).type == "cpu" and not visible()


def refuse_touched() -> None:
    """Raise SetupError if an accelerator was touched: a forked process could not use it."""
    if initialized():
        raise SetupError(
            "machine.device: a library has used the GPU while it was imported, so no run can be started on the "
            "processor. Try: CUDA_VISIBLE_DEVICES= in front of the command, which hides the GPU"
        )


def serve_once(requests: TextIO, events: TextIO) -> int:
    """Wait for one request, carry it out in this process, and return its exit status."""
    line = requests.readline()
    if not line:
        return 0
    say(events, once=True)
    return carry_out(line, events)


def main() -> None:
    """Carry out the runs that standard input asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--once", action="store_true")
    parser.add_argument("device")
    parser.add_argument("places", nargs="*")
    asked = parser.parse_args()
    channel = open_channel(asked.places)
    try:
        if forks(asked.device) and not asked.once:
            refuse_touched()
            serve_from_base(sys.stdin, channel)
        else:
            os._exit(serve_once(sys.stdin, channel))  # as a forked process: nothing is taken down in order
    except BakeoffError as error:
        say(channel, refused=str(error))


if __name__ == "__main__":
    main()
