"""Slurm: its commands as text, its answers as data. Given to cluster.py by daemon.py; never runs anything. Pure.

Its parts: slurm_options.py (what a task asks), slurm_answers.py (what sbatch says), slurm_rows.py with slurm_states.py and
slurm_reasons.py (what squeue and sacct print), slurm_site.py (what the cluster is), slurm_remarks.py (what of that an operator should
know). Measured with 22.05.

The submit command asks for `--export=ALL`: the program that runs it has a clean environment already (hosts/base.py), and with NONE
slurmd would start a login shell for the user's environment, and srun inside a job would see no PATH.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.backends import slurm_options, slurm_remarks, slurm_rows, slurm_site
from reconciler.backends.base import Capacity, Check, JobRequest, QueueRow
from reconciler.backends.dialect import Row, Site, Submission
from reconciler.backends.slurm_answers import ACCEPT, ANSWERS
from reconciler.backends.slurm_options import Choices
from reconciler.core.env import quote

_PROLOGUE = """export LC_ALL=C SLURM_TIME_FORMAT=%s SLURM_BITSTR_LEN=0
unset SQUEUE_ALL SQUEUE_ARRAY SQUEUE_ARRAY_UNIQUE SQUEUE_CLUSTERS SLURM_CLUSTERS SQUEUE_FEDERATION SQUEUE_FORMAT SQUEUE_FORMAT2 \\
  SQUEUE_LICENSES SQUEUE_LOCAL SQUEUE_NAMES SQUEUE_PARTITION SQUEUE_PRIORITY SQUEUE_QOS SQUEUE_SIBLING SQUEUE_SORT SQUEUE_STATES \\
  SQUEUE_USERS SACCT_FEDERATION SACCT_FORMAT SACCT_LOCAL SINFO_ALL SINFO_FORMAT SINFO_PARTITION SINFO_SORT SCANCEL_ACCOUNT \\
  SCANCEL_BATCH SCANCEL_CTLD SCANCEL_FULL SCANCEL_HURRY SCANCEL_INTERACTIVE SCANCEL_NAME SCANCEL_PARTITION SCANCEL_QOS SCANCEL_STATE \\
  SCANCEL_USER SCANCEL_VERBOSE SCANCEL_WCKEY SBATCH_ARRAY_INX SBATCH_WAIT SBATCH_TIMELIMIT SBATCH_EXPORT SBATCH_CLUSTERS
"""
_PROGRAMS: tuple[str, ...] = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
_EXTRAS: tuple[str, ...] = ("sacct", "sacctmgr")
_IDENTIFY = """case ${SLURM_JOB_ID-} in
'' | *[!0-9]*) me="job none 0" ;;
*) me=$SLURM_JOB_ID
  [ -z "${SLURM_ARRAY_JOB_ID-}" ] || [ -z "${SLURM_ARRAY_TASK_ID-}" ] || me=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  case ${SLURM_RESTART_COUNT-} in '' | *[!0-9]*) me="job $me 0" ;; *) me="job $me $SLURM_RESTART_COUNT" ;; esac ;;
esac
"""
#: An argument of a command may have 128 KiB (MAX_ARG_STRLEN); an id has up to 20 characters.
_IDS_AT_ONCE = 2000
_ID = re.compile(r"[0-9]{1,10}(?:_[0-9]{1,9}|_\[[0-9,:-]{1,200}\])?")
_NOT_FOUND = re.compile(r"([\w.-]{1,64}): (?:command )?not found")
_SHELL_WORD = re.compile(r'(?P<quote>"?)[A-Za-z0-9_${}]*\$[A-Za-z0-9_${}]+(?P=quote)')
#: Why a command failed, by a piece of what it said.
_TROUBLES = (
    ("Unable to contact slurm controller", "slurmctld is not running, or cannot be reached"),
    ("Socket timed out", "slurmctld does not answer in time"),
    ("Zero Bytes were transmitted", "slurmctld broke the connection off"),
    ("Unexpected missing socket error", "slurmctld broke the connection off"),
    ("Connection reset by peer", "slurmctld broke the connection off"),
    ("Munge encode failed", "munge is not running there, so Slurm cannot know who we are"),
    ("Protocol authentication error", "Slurm could not verify who we are: munge is down on one side, or their clocks differ"),
    ("Invalid authentication credential", "Slurm could not verify who we are: munge keys or clocks differ"),
    ("Slurm accounting storage is disabled", "this cluster keeps no accounting"),
    ("Problem talking to the database", "the accounting (slurmdbd) does not answer"),
    ("Unable to connect to database", "the accounting (slurmdbd) does not answer"),
    ("slurm_persist_conn_open", "the accounting (slurmdbd) does not answer"),
    ("Slurm backup controller in standby mode", "slurmctld is changing over to its backup"),
    ("Incompatible versions", "Slurm's commands there are of another version than slurmctld"),
    ("Could not establish a configuration source", "Slurm finds no configuration there"),
    ("Unable to process configuration file", "Slurm's configuration there cannot be read"),
    ("Access/permission denied", "this account may not ask Slurm that"),
)


@dataclass(frozen=True, slots=True)
class Slurm:
    """The dialect of one cluster, with what its Backend says: `partition_map` and `default_partition` (a task's partition is looked up in
    the map; else it is the default one; else it is taken as written), `account` for tasks that name none, the names of the options of
    sbatch that tasks may use in `scheduler_args`, and `user`, whose jobs these are ("": whoever runs the commands)."""

    partition_map: Mapping[str, str] = field(default_factory=dict)
    default_partition: str = ""
    account: str = ""
    scheduler_args: tuple[str, ...] = ()
    user: str = ""

    title = "Slurm"
    programs = _PROGRAMS
    extras = _EXTRAS
    prologue = _PROLOGUE
    identify = _IDENTIFY
    accept = ACCEPT
    element = "${id}_$index"
    index = "$SLURM_ARRAY_TASK_ID"
    answers = ANSWERS

    @property
    def _choices(self) -> Choices:
        return Choices(self.partition_map, self.default_partition, self.account, self.scheduler_args)

    def capped(self, request: JobRequest, site: Site) -> JobRequest:
        return slurm_options.capped(request, self._choices, site.ceilings)

    def trouble(self, request: JobRequest) -> str:
        return slurm_options.trouble(request, self._choices)

    def asked(self, request: JobRequest) -> tuple[str, ...]:
        return slurm_options.options(request, self._choices)

    def submit(self, submission: Submission) -> str:
        """`asked` first and ours after it: of an option said twice the last counts. `--parsable` twice: an option of the task's that
        lacks its value takes the next word for it."""
        ours = (
            f"--job-name={submission.name}",
            f"--comment={submission.comment}",
            f"--chdir={submission.folder}",
            f"--output={_literal(submission.output)}{'.%a' if submission.indexes else ''}",
        )
        array = f" --array={submission.indexes}" if submission.indexes else ""
        words = (*submission.asked, "--parsable", "--parsable", "--export=ALL", "--open-mode=append", *ours)
        return f"sbatch {' '.join(map(quote, words))}{array} -- {quote(submission.script)} </dev/null"

    def cancel(self, ids: Sequence[str]) -> str:
        """Ids that Slurm has forgotten are no error of scancel's; what is no id, and no shell word, is left out."""
        words = [f'"{each.strip(chr(34))}"' if "$" in each else each for each in ids if _ID.fullmatch(each) or _SHELL_WORD.fullmatch(each)]
        return "\n".join(f"scancel {' '.join(part)}" for part in _chunks(words)) or ":"

    def queue(self, mark: str) -> str:
        """`-a`: jobs in hidden partitions, too. They may be submitted to, and without it squeue shows none of the user's own there."""
        return f"squeue -h -a -r {self._whose} -o {quote(slurm_rows.short_format(mark))}"

    @property
    def _whose(self) -> str:
        return f"-u {quote(self.user)}" if self.user else "--me"

    def jobs(self, mark: str, ids: Sequence[str]) -> str:
        """A single id that is not known is an error of squeue's, and several are not: so each list has its first id twice."""
        command = f"squeue -h -r -t all -O {quote(slurm_rows.long_format(mark))} -j"
        return " && ".join(f"{command} {','.join((part[0], *part))}" for part in _chunks(_ids(ids))) or ":"

    def accounts(self, mark: str, ids: Sequence[str]) -> str:
        command = f"sacct -n -p --delimiter={quote(f'{mark}=')} -o {','.join(slurm_rows.ACCOUNT_FIELDS)} -j"
        return " && ".join(f"{command} {','.join(part)}" for part in _chunks(_ids(ids))) or ":"

    def everybody(self, mark: str) -> str:
        """Elements of an array that wait are one row here: of somebody else's there may be a million."""
        return f"squeue -h -a -o {quote(slurm_rows.short_format(mark))}"

    def site(self, mark: str) -> str:
        return slurm_site.site_command(mark, self.user)

    def capacity(self, mark: str) -> str:
        return slurm_site.capacity_command(mark, self.user)

    def comments(self, mark: str) -> str:
        return f"squeue -h -a {self._whose} -o {quote(slurm_rows.comment_format(mark))}"

    def read_comments(self, mark: str, text: str) -> list[tuple[str, str]]:
        return slurm_rows.read_comments(mark, text)

    def remarks(self, site: Site) -> Sequence[Check]:
        return slurm_remarks.remarks(site)

    def read_rows(self, mark: str, text: str) -> list[Row]:
        return slurm_rows.read_rows(mark, text)

    def read_accounts(self, mark: str, text: str) -> list[Row]:
        return slurm_rows.read_accounts(mark, text)

    def read_site(self, mark: str, text: str) -> Site:
        return slurm_site.read_site(mark, text, self.account)

    def read_capacity(self, mark: str, text: str) -> Capacity:
        return slurm_site.read_capacity(mark, text, self.account)

    def queue_rows(self, rows: Sequence[Row]) -> Sequence[QueueRow]:
        return [QueueRow(row.job_id, row.name, row.user, row.word, row.reason) for row in rows]

    def unreachable(self, command: str, code: int, error: str) -> str:
        missing = _NOT_FOUND.search(error)
        program = command.split(None, 1)[0] if command.split() else ""
        if code == 127 or missing:
            program = program or (missing[1] if missing else "a command")
            return f"{program} is not there: Slurm's commands are not on the PATH of this account (login_shell: true reads its profile)"
        for piece, words in _TROUBLES:
            if piece in error:
                return f"{words} ({f'{program}: ' if program else ''}{_one_line(error)})"
        return f"{program or 'the command'} ended with code {code}: {_one_line(error) or 'it said nothing'}"


def _literal(path: str) -> str:
    """`path` as sbatch takes it for a file name. `%j` would be the job's id; with a backslash anywhere, Slurm takes `%` as it is (also
    the one of `%a`: such elements share a file) and a doubled backslash for one."""
    return path.replace("\\", "\\\\") if "\\" in path else path.replace("%", "%%")


def _ids(ids: Sequence[str]) -> list[str]:
    return [each for each in ids if _ID.fullmatch(each)]


def _chunks(words: Sequence[str]) -> Sequence[Sequence[str]]:
    return [words[start : start + _IDS_AT_ONCE] for start in range(0, len(words), _IDS_AT_ONCE)]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
