"""What a Slurm cluster is, allows and has: the commands that ask, and what they answered. Pure; called by slurm.py.

The answer is in parts: a line `MARK|<part>` of ours, and below it what one command printed, as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from reconciler.backends.base import Capacity
from reconciler.backends.dialect import Ceiling, Site
from reconciler.core.env import quote

#: Settings of `scontrol show config` that change how we, or a person, should read the cluster.
_NOTED = (
    "ClusterName", "AccountingStorageEnforce", "AccountingStoreFlags", "AuthType", "EnforcePartLimits", "JobRequeue",
    "JobSubmitPlugins", "KillWait", "MaxArraySize", "MaxJobCount", "MessageTimeout", "MinJobAge", "OverTimeLimit", "PreemptMode",
    "PreemptType", "PrivateData", "ProctrackType", "RequeueExit", "RequeueExitHold", "SchedulerParameters", "SelectType",
    "SlurmctldTimeout", "SlurmdTimeout",
)  # fmt: skip
#: sacctmgr waits for a database that hangs for 30 to 45 seconds; what it tells is not worth that.
_PATIENCE_S = 10
_CONFIG = re.compile(r"([A-Za-z_]+(?:\[0\])?)\s*= (.*)")
_UNSET = frozenset({"", "(null)", "None", "none", "N/A"})


def site_command(mark: str, user: str) -> str:
    """Shell text that fails when the controller cannot be asked; the accounting is asked only where there is one, and may fail."""
    me = quote(user) if user else '"$(id -un)"'
    return f"""config=$(scontrol show config) || {{ code=$?; printf '%s\\n' "$config"; (exit "$code"); }} && {{
printf '%s\\n' '{mark}|config' "$config"
case $config in *'= accounting_storage/slurmdbd'*)
  patience=; command -v timeout >/dev/null 2>&1 && patience='timeout {_PATIENCE_S}'
  me={me}
  printf '%s\\n' '{mark}|user'
  $patience sacctmgr -n -P show user name="$me" format=User,DefaultAccount 2>/dev/null </dev/null
  printf '%s\\n' '{mark}|assoc'
  $patience sacctmgr -n -P show assoc where user="$me" format=Cluster,Account,Partition,MaxSubmitJobs,DefaultQOS,QOS 2>/dev/null </dev/null
  printf '%s\\n' '{mark}|qos'
  $patience sacctmgr -n -P show qos format=Name,MaxSubmitJobsPerUser,MaxSubmitJobsPerAccount,GrpSubmitJobs 2>/dev/null </dev/null
  ;;
esac
printf '%s\\n' '{mark}|ceilings'
sinfo -h -o '%R|%l|%m|%P' 2>/dev/null
printf '%s\\n' '{mark}|end'
}}"""


def capacity_command(mark: str, user: str) -> str:
    """Shell text that tells partitions and processors besides what `site_command` does."""
    return f"""printf '%s\\n' '{mark}|partitions' && sinfo -h -o '%P|%a|%D|%C|%l|%L' &&
printf '%s\\n' '{mark}|processors' && sinfo -h -o '%C' && {{ {site_command(mark, user)}
}}"""


def read_site(mark: str, text: str, account: str) -> Site:
    """`account`: the one that jobs are charged to, "" for the user's default."""
    parts = _parts(mark, text)
    config = _config(parts.get("config", ""))
    accounting = "slurmdbd" in config.get("AccountingStorageType", "")
    parameters = dict(each.partition("=")[::2] for each in config.get("SchedulerParameters", "").split(","))
    return Site(
        version=config.get("SLURM_VERSION", ""),
        started_at=_number(config.get("BOOT_TIME", "")) or None,
        accounting=accounting,
        array_max=_least(_number(config.get("MaxArraySize", "")), _number(parameters.get("max_array_tasks", ""))),
        jobs_max=_number(config.get("MaxJobCount", "")),
        submit_max=_submit_max(parts, config, account) if accounting else None,
        remembered_s=_number(config.get("MinJobAge", "").removesuffix(" sec")) or None,  # 0 is for ever
        ceilings=_ceilings(parts.get("ceilings", "")),
        notes={name: config[name] for name in _NOTED if config.get(name, "") not in _UNSET},
    )


def _ceilings(text: str) -> dict[str, Ceiling]:
    """By partition: its time limit, and the memory of its largest node."""
    found: dict[str, Ceiling] = {}
    for fields in (line.split("|") for line in text.splitlines()):
        if len(fields) != 4:
            continue
        name, limit, memory, shown = fields
        before = found.get(name, Ceiling()).memory_mb or 0
        found[name] = Ceiling(_seconds(limit), max(before, _number(memory.removesuffix("+")) or 0) or None)
        if shown.endswith("*"):
            found[""] = found[name]
    return found


def _seconds(text: str) -> int | None:
    """A limit as sinfo prints it, `[days-]hours:minutes:seconds` or shorter; None for `infinite` and what is none."""
    match = re.fullmatch(r"(?:(\d{1,6})-)?(?:(\d{1,4}):)?(\d{1,4}):(\d{1,2})", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(each or 0) for each in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _submit_max(parts: Mapping[str, str], config: Mapping[str, str], account: str) -> int | None:
    """The least limit that is set and enforced, of our associations and of the QOS that they use by default."""
    if not {"limits", "safe", "all"} & set(config.get("AccountingStorageEnforce", "").split(",")):
        return None
    users = [line.split("|") for line in parts.get("user", "").splitlines()]
    charged = account or next((each[1] for each in users if len(each) == 2), "")
    limits: list[int | None] = []
    used: set[str] = set()
    for fields in (line.split("|") for line in parts.get("assoc", "").splitlines()):
        if len(fields) == 6 and fields[0] == config.get("ClusterName") and charged in {fields[1], ""}:
            limits.append(_number(fields[3]))
            allowed = fields[5].split(",")  # without a default, Slurm takes `normal`, or the only one
            used |= {fields[4]} if fields[4] else set(allowed) if len(allowed) == 1 else {"normal"} & set(allowed)
    for fields in (line.split("|") for line in parts.get("qos", "").splitlines()):
        if len(fields) == 4 and fields[0] in used:
            limits += map(_number, fields[1:])
    return _least(*limits)


def read_capacity(mark: str, text: str, account: str) -> Capacity:
    """Partitions and limits as lines for a person; processors in all, and idle ones."""
    parts = _parts(mark, text)
    total, idle = _processors(parts.get("processors", "").strip())
    lines = (_partition(line.split("|")) for line in parts.get("partitions", "").splitlines())
    return Capacity(total, idle, tuple(line for line in lines if line), _limits(read_site(mark, text, account)))


def _partition(fields: list[str]) -> str:
    """`main (default): up; nodes 4; processors 256, idle 250; time limit infinite, by default 1:00:00`; "" for no partition."""
    if len(fields) != 6:
        return ""
    name, up, nodes, processors, most, usual = fields
    total, idle = _processors(processors)
    named = f"{name.removesuffix('*')} (default)" if name.endswith("*") else name
    room = f"{total}, idle {idle}" if total is not None else processors
    limit = most if usual in {"n/a", ""} else f"{most}, by default {usual}"
    return f"{named}: {up}; nodes {nodes}; processors {room}; time limit {limit}"


def _processors(text: str) -> tuple[int | None, int | None]:
    """All and idle of `allocated/idle/other/total`."""
    counts = [_number(each) for each in text.split("/")]
    return (counts[3], counts[1]) if len(counts) == 4 else (None, None)


def _limits(site: Site) -> tuple[str, ...]:
    told = (
        ("jobs that you may have submitted at a time", site.submit_max),
        ("elements of one array", site.array_max),
        ("jobs that the scheduler holds, of everybody", site.jobs_max),
    )
    return tuple(f"{words}: {value}" for words, value in told if value is not None)


def _parts(mark: str, text: str) -> dict[str, str]:
    """What is below each of our lines."""
    found: dict[str, str] = {}
    for chunk in f"\n{text}".split(f"\n{mark}|")[1:]:
        name, _, body = chunk.partition("\n")
        found.setdefault(name.strip(), body)
    return found


def _config(text: str) -> dict[str, str]:
    return {match[1]: match[2].strip() for match in map(_CONFIG.fullmatch, text.splitlines()) if match}


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else None


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)
