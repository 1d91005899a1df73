"""The sections of the YAML that no result depends on: the machine, its price, a judge, checkpoints and limits."""

import re
from typing import Literal, Self

from pydantic import ByteSize, Field, PositiveFloat, field_validator, model_validator

from bakeoff.config.sections import Section
from bakeoff.errors import did_you_mean

DEVICES = ("auto", "cpu", "cuda", "cuda:1", "xpu", "mps")
OF_CLUSTERS = {"address": ("ray",), "resources": ("ray", "slurm"), "slurm": ("slurm",)}
# What bakeoff says to sbatch itself, or what would give a job more processes, or another node than its first.
OWN_OPTIONS = (
    "array", "batch", "chdir", "cpus-per-task", "error", "export", "gres", "input", "job-name", "mem", "nodes",
    "ntasks", "ntasks-per-node", "output", "parsable", "requeue", "no-requeue", "signal", "test-only", "time", "wait",
    "wrap",
)  # fmt: skip


class SlurmConfig(Section):
    """What is said to Slurm about the jobs in which runs are carried out. Nothing here changes a result."""

    partition: str | None = Field(None, min_length=1, description="partition of the jobs; null: Slurm's default")
    account: str | None = Field(None, min_length=1, description="account of the jobs; null: the user's default")
    nodes: int = Field(
        1,
        ge=1,
        le=64,
        description="on how many nodes a run is, with machine.shards, which are divided evenly among them; so is "
        "machine.resources, which is what a run takes of all of them together",
    )
    hours: float | None = Field(
        None, gt=0, le=24 * 365, description="time limit of one job, in hours; null: that of the partition"
    )
    options: list[str] = Field(
        [],
        description="further options of sbatch, as in [--qos=low, --constraint=a100]; what a run takes is said in "
        "machine.resources",
    )
    save_seconds: int = Field(
        120,
        ge=10,
        le=3600,
        description="how long before its time limit a job's run is asked to save; the job then joins the queue again",
    )
    wait_seconds: int = Field(
        600, ge=10, le=24 * 3600, description="how long a job without a run waits for a driver that was killed"
    )

    @field_validator("options")
    @classmethod
    def _allowed_options(cls, value: list[str]) -> list[str]:
        for option in value:
            name = re.fullmatch(r"--([a-z][a-z-]*)(=.*)?", option)
            if name is None:
                raise ValueError(f"expected options as in --qos=low, got {option!r:.60}")
            if name[1] in OWN_OPTIONS:
                raise ValueError(f"--{name[1]} is set by bakeoff. Try: the other keys of machine.slurm, or resources")
        return value

    @model_validator(mode="after")
    def _time_to_run(self) -> Self:
        if self.hours is not None and self.hours * 3600 <= self.save_seconds:
            raise ValueError(f"hours: a job of {self.hours * 3600:g} s has no time left. Try: less save_seconds")
        return self


class MachineConfig(Section):
    """What runs use of this machine."""

    device: str = Field(
        "auto",
        description="device of the runs: auto (the first CUDA, ROCm or XPU GPU that torch finds, else the processor), "
        "cpu, cuda (also ROCm), cuda:1 (the second GPU), xpu or mps",
    )

    devices: Literal["auto"] | list[int] = Field(
        "auto",
        description="indices of the GPUs that runs use at the same time, [0, 1]; auto: all that torch finds, or the "
        "one that machine.device names",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="how many runs are carried out at the same time; null: one on each device. On a processor each has "
        "an equal share of the cores. More than one per device is faster for small models; their seconds are then "
        "measured beside other runs",
    )

    shards: int = Field(
        1,
        ge=1,
        le=64,
        description="how many devices share each run: its batches, its evaluation, and the weights of its blocks. For "
        "bases that do not fit one device. They are of one machine, or with executor ray of several nodes if none has "
        "enough, with executor slurm of machine.slurm.nodes; on a processor as many processes share its cores",
    )
    shard_weights: bool = Field(
        True,
        description="with several shards: each device holds a part of each block's weights. false: each holds the "
        "whole base, and only batches and evaluation are shared, which is faster if the base fits",
    )

    executor: Literal["local", "ray", "slurm"] = Field(
        "local",
        description="where runs are carried out: local (this machine), ray (the nodes of a Ray cluster) or slurm (jobs "
        "that are submitted to Slurm)",
    )
    address: str | None = Field(
        None,
        description="with executor ray: the cluster's address; null: that of RAY_ADDRESS, or the one on this machine, "
        "which is started if there is none",
    )
    resources: dict[str, PositiveFloat] | None = Field(
        None,
        description="with executor ray or slurm: what one run takes, as in {GPU: 1, CPU: 4}, memory in bytes; null: "
        "for each shard one GPU if the cluster has any, else one CPU",
    )
    slurm: SlurmConfig | None = Field(None, description="with executor slurm: what is said to sbatch about each job")

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", value):
            hint = " Did you mean 'cuda'?" if value.lower() == "gpu" else did_you_mean(value, DEVICES)
            raise ValueError(f"unknown device '{value}'.{hint}")
        return value

    @model_validator(mode="after")
    def _for_shards(self) -> Self:
        if self.shards > 1 and (":" in self.device or self.device == "mps"):
            raise ValueError(f"shards: {self.device} is one device. Try: devices: [0, 1], or device: auto")
        nodes = self.slurm.nodes if self.slurm else 1
        if self.shards % nodes:
            raise ValueError(f"slurm: nodes: {nodes} cannot share machine.shards: {self.shards} evenly. Try: nodes: 1")
        return self

    @model_validator(mode="after")
    def _for_a_cluster(self) -> Self:
        cluster = {"local": "this machine", "ray": "Ray", "slurm": "Slurm"}[self.executor]
        if self.executor != "local" and (self.devices != "auto" or ":" in self.device):
            raise ValueError(
                f"devices: {cluster} says which devices a run uses. Try: resources: {{GPU: 1}}, without devices"
            )
        for name, executors in OF_CLUSTERS.items():
            if getattr(self, name) is not None and self.executor not in executors:
                raise ValueError(f"{name}: is for a cluster. Try: executor: {' or '.join(executors)}")
        return self

    @field_validator("resources")
    @classmethod
    def _known_resources(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for name in value or {}:
            if not re.fullmatch(r"[A-Za-z][\w.:-]*", name):
                raise ValueError(f"expected names as in {{GPU: 1, CPU: 4}}, got {name!r:.60}")
        return value

    @model_validator(mode="after")
    def _indices(self) -> Self:
        if self.devices == "auto":
            return self
        if not self.devices or min(self.devices) < 0 or len({*self.devices}) < len(self.devices):
            raise ValueError("devices: expected different indices of GPUs, for example [0, 1]")
        if self.device not in ("auto", "cuda", "xpu"):
            raise ValueError(f"devices: {self.device} is one device. Try: device: cuda, or without devices")
        return self


class PriceConfig(Section):
    """What the machine costs, so that costs are also shown in money. Nothing here changes a result."""

    gpu_hour: float | None = Field(
        None, gt=0, description="price of one hour of one GPU, for runs on a GPU; null: their costs are not in money"
    )
    cpu_hour: float | None = Field(None, gt=0, description="price of one hour of the machine, for runs without a GPU")
    currency: str = Field("", max_length=12, description="unit of the prices, for example EUR")


class JudgeConfig(Section):
    """A judge model, which `bakeoff judge` asks. Nothing is sent to it by any other command."""

    base_url: str = Field(
        pattern=r"^https?://",
        description="address of a server with OpenAI's interface, up to and with /v1; documents and outputs are sent "
        "there",
    )
    model: str = Field(min_length=1, description="the judge's name at that server")
    key_variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="environment variable with the key of the server; null: no key is sent",
    )
    criteria: str = Field(
        "Which output is the better one for a reader who has not read the document? It must be true to the document, "
        "have what matters most in it, and be well written. Length alone is no merit.",
        max_length=10_000,
        description="what the judge is to go by",
    )
    seeds: int | None = Field(None, ge=1, description="how many seeds of each entry are judged; null: all")
    documents: int | None = Field(
        None, ge=1, description="how many test documents are judged, chosen at random; null: all"
    )
    answer_tokens: int = Field(
        512, ge=1, le=100_000, description="most tokens of an answer; judges that think first need thousands"
    )
    pairs: float = Field(
        0,
        ge=0,
        le=1,
        description="the best entry is compared with each other one; this share of the other pairs is compared, too, "
        "drawn by their names: 0 none, 1 every pair",
    )
    parallel: int = Field(4, ge=1, le=256, description="how many requests are open at the same time")
    seconds: float = Field(120, gt=0, description="time limit of one request")
    retries: int = Field(5, ge=0, le=100, description="how often a request is tried again that failed, with pauses")
    input_price: float | None = Field(None, ge=0, description="price of a million tokens that are sent")
    output_price: float | None = Field(None, ge=0, description="price of a million tokens of answers")


class SafetyConfig(Section):
    """Checkpoints and limits of runs. Nothing here changes a result."""

    checkpoint_seconds: float = Field(
        60, gt=0, description="seconds of training between checkpoints; every validation writes one, too"
    )
    checkpoint_budget: Literal["auto"] | ByteSize = Field(
        "auto",
        description="disk space for the last two checkpoints of one run: a size (4GB), or auto (a quarter of what is "
        "free)",
    )
    stall_seconds: float = Field(
        1800,
        gt=0,
        description="a run that makes no progress for this many seconds is ended and counts as failed; the next run "
        "starts",
    )
    memory_limit: ByteSize | None = Field(
        None, description="maximum memory of a run's process (8GB), on Linux; null: no limit"
    )
