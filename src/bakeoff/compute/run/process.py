"""The server of runs that need a model: imports the heavy libraries before it is asked for a run.

`python -P -m bakeoff.compute.run.process [--alone] DEVICE [PLACE...]` carries out requests (see `request`). Where torch
finds no accelerator it forks the processes of runs, which share the memory of libraries and base (see `holder`).
Elsewhere, or with --alone, it carries out runs itself: after an accelerator was touched, which bitsandbytes does when
it is imported, no forked process can use it. It then keeps the base from run to run (see `lender`), and ends when one
fails. When it gets its first run it says {"alone": true}: it is time to start another server that can replace it.

A server that can carry out no run says {"refused": reason}. It is a program of its own and does not use
`multiprocessing`, whose children import the user's main script again and use pickles.
"""

import argparse
import gc
import os
import sys
from typing import TextIO

import peft
import torch
import transformers

from bakeoff.compute.model.device import choose, counts_peaks, initialized, visible
from bakeoff.compute.run import members, worker
from bakeoff.compute.run.handover import Given
from bakeoff.compute.run.holder import serve_from_base
from bakeoff.compute.run.lender import Lender, switches
from bakeoff.compute.run.request import carry_out, open_channel, say
from bakeoff.errors import BakeoffError, SetupError

PRELOADED = (members, peft, torch, transformers, worker)


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


def serve_alone(requests: TextIO, events: TextIO, lender: Lender, several: bool) -> int:
    """Carry out requests in this process until they end or a run fails; return the last one's exit status.

    It also ends, and with it all that the run has left behind, after a run that has changed how torch computes, and
    after the first one unless it may carry out `several`.
    """
    gc.freeze()  # before a base is lent again all that is garbage is collected; what was imported never is
    before = switches()
    for number, line in enumerate(requests):
        if number == 0:
            say(events, alone=True)
        status = carry_out(line, events, Given(lender=lender))
        if status or not several or switches() != before:
            return status
        say(events, exit=0)
    return 0


def main() -> None:
    """Carry out the runs that standard input asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("device")
    parser.add_argument("places", nargs="*")
    asked = parser.parse_args()
    channel = open_channel(asked.places)
    try:
        if forks(asked.device) and not asked.alone:
            refuse_touched()
            serve_from_base(sys.stdin, channel)
        else:
            device = choose(asked.device)
            several = asked.alone or counts_peaks(device)  # else a run's peak would be that of the runs before it, too
            os._exit(serve_alone(sys.stdin, channel, Lender(device), several))  # nothing is taken down in order
    except BakeoffError as error:
        say(channel, refused=str(error))


if __name__ == "__main__":
    main()
