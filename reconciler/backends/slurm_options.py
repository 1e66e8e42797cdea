"""What a task asks of Slurm, as options of `sbatch`; and what can never be asked. Pure; called by slurm.py."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from reconciler.backends.base import JobRequest
from reconciler.backends.dialect import Ceiling
from reconciler.core.desired import Resources
from reconciler.core.env import quote

#: Slurm counts a time limit in seconds as a signed 32-bit number: 68 years.
_TIME_LIMIT_MAX_S = 2**31 - 1
#: `--mem` in mebibytes; above 2**63 - 1 sbatch refuses it, and no machine is near this.
_MEMORY_MAX_MB = 2**50
_COUNT_MAX = 2**31 - 1
#: slurmctld takes 4 MiB of script (max_script_size); the rest is for what we write around it.
SCRIPT_MAX = 4_000_000
#: What we say to sbatch ourselves, and what makes it do something else than submit here. No Backend can allow these to tasks: a name that
#: begins one of them is one to sbatch too.
_OURS = (
    "--array", "--batch", "--bell", "--chdir", "--clusters", "--comment", "--error", "--export", "--export-file", "--get-user-env", "--gid",
    "--help", "--ignore-pbs", "--input", "--job-name", "--no-requeue", "--open-mode", "--output", "--parsable", "--quiet", "--requeue",
    "--test-only", "--uid", "--usage", "--verbose", "--version", "--wait", "--workdir", "--wrap",
    "-a", "-D", "-M", "-e", "-h", "-i", "-J", "-o", "-Q", "-u", "-v", "-V", "-W",
)  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: The texts of a task that become values of options, by the name of the task's field.
_TEXTS = ("partition", "gres", "account", "qos", "constraint", "reservation", "licenses")


@dataclass(frozen=True, slots=True)
class Choices:
    """What the Backend says about partitions, accounts and options; see slurm.py."""

    partition_map: Mapping[str, str] = field(default_factory=dict)
    default_partition: str = ""
    account: str = ""
    scheduler_args: Collection[str] = ()

    def partition(self, asked: str) -> str:
        """The real partition: of the map; else the default; else the very name that was asked for. "": Slurm's own default."""
        return self.partition_map.get(asked) or self.default_partition or asked


def options(request: JobRequest, choices: Choices) -> tuple[str, ...]:
    """What `request` asks, unquoted, one word each, `--name=value`.

    `nodes` and `ntasks` are said only when they are asked for, so that Slurm's own rule holds otherwise: one task, or one a node.
    What is in scheduler_args comes last, and so wins over what the same task says elsewhere.
    """
    asked = request.resources
    named = (
        ("partition", choices.partition(asked.partition)),
        ("account", asked.account or choices.account),
        ("qos", asked.qos),
        ("cpus-per-task", str(asked.cpus)),
        ("nodes", str(asked.nodes) if asked.nodes > 0 else ""),
        ("ntasks", str(asked.ntasks) if asked.ntasks > 1 else ""),
        ("mem", f"{asked.memory_mb}M"),
        ("time", str(minutes(asked.time_limit_s))),
        ("gres", asked.gres),
        ("constraint", asked.constraint),
        ("reservation", asked.reservation),
        ("licenses", asked.licenses),
    )
    options = tuple(f"--{name}={value}" for name, value in named if value)
    return (*options, "--requeue" if request.requeue else "--no-requeue", *asked.scheduler_args)


def capped(request: JobRequest, choices: Choices, ceilings: Mapping[str, Ceiling]) -> JobRequest:
    """What a retry made larger than declared, made no larger than the partition allows; of several partitions, than the first known."""
    declared = request.declared
    if declared is None:
        return request
    names = choices.partition(request.resources.partition).split(",")
    most = next((ceilings[name] for name in names if name in ceilings), Ceiling())
    asked = replace(
        request.resources,
        time_limit_s=_capped(request.resources.time_limit_s, declared.time_limit_s, most.time_limit_s),
        memory_mb=_capped(request.resources.memory_mb, declared.memory_mb, most.memory_mb),
    )
    return replace(request, resources=asked)


def _capped(asked: int, declared: int, most: int | None) -> int:
    return asked if most is None else max(declared, min(asked, most))


def minutes(seconds: float) -> int:
    """A time limit as Slurm takes it: whole minutes, rounded up; at least one, because 0 is no limit."""
    return max(1, -int(-seconds // 60))


def trouble(request: JobRequest, choices: Choices) -> str:
    """Why this can never be submitted, in words that name the task's field and the cure; "" when it can."""
    return (
        _text_trouble(request.resources)
        or _number_trouble(request.resources)
        or _argument_trouble(request.resources.scheduler_args, choices.scheduler_args)
        or _script_trouble(request)
    )


def _text_trouble(asked: Resources) -> str:
    for name in _TEXTS:
        value = getattr(asked, name)
        if _CONTROL.search(value):
            return f"{name} holds a control character or a line break ({value!r}): write it on one line"
        if value != value.strip():
            return f"{name} begins or ends with a blank ({value!r}): remove it"
    return ""


def _number_trouble(asked: Resources) -> str:
    if not 0 < asked.time_limit_s <= _TIME_LIMIT_MAX_S:
        return f"time_limit is {asked.time_limit_s} seconds; Slurm takes 1 to {_TIME_LIMIT_MAX_S} (68 years): write another"
    if not 0 < asked.memory_mb <= _MEMORY_MAX_MB:
        return f"memory is {asked.memory_mb} MiB; Slurm takes 1 to {_MEMORY_MAX_MB} (0 would be all of a machine): write another"
    for name, value, least in (("cpus", asked.cpus, 1), ("ntasks", asked.ntasks, 1), ("nodes", asked.nodes, 0)):
        if not least <= value <= _COUNT_MAX:
            return f"{name} is {value}; Slurm takes {max(1, least)} to {_COUNT_MAX}: write another"
    return ""


def _argument_trouble(asked: Collection[str], allowed: Collection[str]) -> str:
    for argument in asked:
        name = argument.partition("=")[0]
        if not re.fullmatch(r"--[a-z][a-z0-9-]*|-[A-Za-z]", name) or _CONTROL.search(argument):
            return f"scheduler_args: {argument!r} is no option: write each as one text, --exclusive or --mail-type=END"
        if any(own.startswith(name) if name.startswith("--") else own == name for own in _OURS):
            return f"scheduler_args: {name} is said by the reconciler itself, or would keep the job from being found: remove it"
        if name not in allowed:
            may = f"only {', '.join(sorted(allowed))}" if allowed else "none"
            return f"scheduler_args: this Backend does not allow {name} ({may}): remove it, or add it to the Backend's scheduler_args"
    return ""


def _script_trouble(request: JobRequest) -> str:
    if request.image:
        return f"image: Slurm runs no container images here ({request.image!r}): start it in the command (apptainer run …)"
    texts = [("command", request.command), ("init", request.init), *((f"the value of {name} in env", value) for name, value in request.env)]
    for name, text in texts:
        if "\0" in text:
            return f"{name} holds a NUL character, which Slurm takes in no script: remove it"
        if "\r\n" in text:
            return f"{name} has Windows line ends (CR LF), with which Slurm takes no script: save it with Unix line ends"
    size = sum(len(quote(text).encode(errors="replace")) for _, text in texts)
    if size > SCRIPT_MAX:
        return f"command, init and env are {size} bytes together; Slurm takes a script of {SCRIPT_MAX}: put what is long into a file"
    return ""
