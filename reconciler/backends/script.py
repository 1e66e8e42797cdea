"""The script of one job: pure text. Called by backends that run jobs through a shell.

One file, run twice. `sh script` is the *wrapper*: it takes the job's start record, or leaves; it runs the *body*; its last act is the
exit record, written to its own folder and then to the mailbox, each by one write of one line that ends in `end`, so that nobody
believes half of it. The body, `bash script body`, is the end of the same file: the task's own `init`, exports and command. So a
person who opens the file sees all of the job, and a command with a syntax error cannot hurt the wrapper, which is never asked to
parse it. On this machine the file is also the claim of the name (marks.py).

Cost. One fork beside the user's command: bash. Milliseconds for one job whose command is `true`, four at a time on 2 cores, best of
8 rounds of 100 (processor time in brackets), all from a script file: this, without a mailbox, 2.3 (2.2); a link into the mailbox by
ln 2.5 (2.9), by mv, which loads five more libraries, 3.1 (3.4); sh for the body, mv, 2.6 (2.8); bash for both, the body in a
subshell, mv, 2.7 (3.1); the body by `bash -c`, mv, 2.7 (3.1), and that cannot hold a command above 128 KiB. So the mailbox gets its
own copy of the record, by a second redirect. For comparison: `xargs -P 4 sh -c true` on the same machine at the same time, 1.6.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.backends.base import FENCED_EXIT, JobRequest
from reconciler.backends.marks import INTERRUPTED, UNBEGUN_EXIT, Claim
from reconciler.core.env import assignment, quote

#: The environment variable by which every process of a job can be told from a stranger's: the job's folder.
FOLDER_VARIABLE = "RECONCILER_JOB_DIR"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a job's files are on the far side, absolute, and how it is to be run there. `exits` is the mailbox, "" for none.

    `identify` is shell text that sets `me` to what the start record says of the process, without a fork. `umask` is the one of
    the command ("" leaves that of the wrapper, 077), `files` its soft limit of open files (0: as it is). `last` is shell text run
    before the exit record is written, which may set what `says`, more words of that record, refers to. `count` is shell text of how
    often the scheduler has restarted this very job, for one that it may restart (`JobRequest.requeue`).
    """

    folder: str
    exits: str
    identify: str
    umask: str = ""
    files: int = 0
    last: str = ""
    says: str = ""
    count: str = ""


def identify_process(namespace: int) -> str:
    """`identify` for a process of this machine; read by shell builtins, so that it costs no fork."""
    return f"""read -r boot </proc/sys/kernel/random/boot_id
read -r stat </proc/$$/stat
set -- ${{stat##*) }}
me="process $boot {namespace} $$ ${{20}}\""""


def job_script(request: JobRequest, layout: Layout) -> str:
    """The text of the script of one job, below its first line (`#!/bin/sh`). `request` has been checked (`trouble` finds nothing)."""
    return _wrapper(request, layout) + _body(request, layout)


def claimed_script(claim: Claim, text: str) -> str:
    """The whole file: who claimed the name, and the `job_script`."""
    return f"#!/bin/sh\n# {claim.text()}{text}"


def trouble(request: JobRequest) -> str:
    """Why no script can be made of `request`, in words; "" when one can."""
    for name, value in request.env:
        if not name.isascii() or not name.isidentifier():
            return f"{name!r} cannot be the name of an environment variable"
        if "\0" in value:
            return f"the value of {name} holds a NUL character, which no environment can hold"
    texts = (request.command, request.init, request.working_dir, request.output_file, request.error_file)
    if any("\0" in text for text in texts):
        return "a NUL character in a command or path, which no shell can hold"
    if request.working_dir and not request.working_dir.startswith(("/", "~/")) and request.working_dir != "~":
        return f"the working directory {request.working_dir!r} is neither absolute nor below ~/"
    try:
        "".join((*texts, *(value for _, value in request.env))).encode()
    except UnicodeEncodeError as error:
        return f"it holds characters that are no text: {error.reason}"
    return ""


def work_folder(folder: str) -> str:
    """Where a task without a working directory runs: apart from our records, so that a file called `exit` or `out` of its own is just
    a file. `folder` is the job's."""
    return f"{folder}/work"


def shell_path(path: str) -> str:
    """`path` as one shell word: `~` and `~/…` below the home folder of whoever runs it, all else literal."""
    if path == "~":
        return '"$HOME"'
    return f'"$HOME"{quote(path[1:])}' if path.startswith("~/") else quote(path)


def _wrapper(request: JobRequest, layout: Layout) -> str:
    shell = '"$shell" -l' if request.login_shell else '"$shell"'
    opened, streams = _streams(request, layout)
    enter = f"cd -- {shell_path(request.working_dir or work_folder(layout.folder))} || finish {UNBEGUN_EXIT} workdir\n"
    return f"""# {request.job}: `sh script` is the wrapper, `bash script body` runs what the task asked for, at the end of this file.
[ "${{1-}}" = body ] || {{
folder={quote(layout.folder)}
{_finish(request, layout)}umask 077
trap : HUP INT QUIT TERM # not ignored, or the command would ignore them too; the wrapper lives on to write the exit record
again=
{_trap(request, layout)}cd -- "$folder" || exit {FENCED_EXIT}
{layout.identify}
leave() {{
  {{ echo "fenced 1 $me end" >fenced; }} 2>/dev/null
  exit {FENCED_EXIT}
}}
set -C # a redirect that creates, or fails
{_restarted(request, layout)}{{ echo "start 1 $me end" >"$start"; }} 2>/dev/null || {{
  {{ read -r was <"$start"; }} 2>/dev/null
  [ "${{was-}}" = "start 1 $me end" ] || leave
}}
set +C
[ -z "$again" ] || rm -f -- exit "$exits/$job"
{enter}{opened}shell=/bin/bash
[ -x "$shell" ] || shell=/bin/sh
{shell} "$folder/script" body {streams}
{_ended(request, layout)}
}}
"""


def _is_restartable(request: JobRequest, layout: Layout) -> bool:
    """Whether its scheduler may start it again: then the end of its command after TERM may not be the end of the job."""
    return bool(request.requeue and layout.count)


def _trap(request: JobRequest, layout: Layout) -> str:
    return f"what=command\ntrap what={INTERRUPTED} TERM\n" if _is_restartable(request, layout) else ""


def _ended(request: JobRequest, layout: Layout) -> str:
    """Shell text of the end. TERM may reach the command, and end it, before it reaches us: so any signal is taken for that."""
    if not _is_restartable(request, layout):
        return "finish $? command"
    return f'code=$?\n[ "$code" -le 128 ] || what={INTERRUPTED}\nfinish "$code" "$what"'


def _restarted(request: JobRequest, layout: Layout) -> str:
    """Shell text that sets `start` to the start record to be taken. Each restart by the scheduler takes one of its own, unless an earlier
    one is not the very job's (it was revoked, or is a twin's), or the job has ended for good or was to be ended meanwhile. It takes the
    earlier ones, too, where a former start did not come so far (its node failed): nobody may revoke the first while a later one runs."""
    if not _is_restartable(request, layout):
        return "start=start.0\n"
    return f"""count={layout.count} before=0
[ ! -e cancel ] || leave
if [ "$count" != 0 ] && [ -e exit ]; then
  {{ read -r again <exit; }} 2>/dev/null
  case $again in *' {INTERRUPTED} '*' end') ;; *) leave ;; esac
fi
while [ "$before" -lt "$count" ]; do
  {{ echo "start 1 $me end" >"start.$before"; }} 2>/dev/null || {{
    was=
    {{ read -r was <"start.$before"; }} 2>/dev/null
    case $was in "start 1 ${{me% * *}} "*) ;; *) leave ;; esac
  }}
  before=$((before + 1))
done
start=start.$count
"""


def _finish(request: JobRequest, layout: Layout) -> str:
    """Shell text of `finish CODE WHAT`: the exit record; patient, because the disk may be full.

    The record is one write of one short line that ends in `end`: a reader sees all of it, or nothing that it believes. A backend that
    watches its processes and reads by name has no mailbox.
    """
    record = f'echo "exit 1 $1 $2{layout.says} end"'
    head, last = "", f"  {layout.last}\n" if layout.last else ""
    write, there = f'{record} >|"$folder/exit"', '"$folder"'
    if layout.exits:
        head = f"exits={quote(layout.exits)}\njob={quote(request.job)}\n"
        write, there = f'{write} && {record} >|"$exits/$job"', '"$exits"'
    return f"""{head}finish() {{
{last}  tries=0
  until {{ {write}; }} 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] && [ -d {there} ] || break
    sleep 5
  done
  exit "$1"
}}
"""


def _streams(request: JobRequest, layout: Layout) -> tuple[str, str]:
    """Shell text that empties the files of the task's own choice, and the redirects of its output."""
    out = shell_path(request.output_file) if request.output_file else '"$folder/out"'
    err = shell_path(request.error_file) if request.error_file else '"$folder/err"'
    # Two redirects to one file would overwrite each other.
    redirects = f">>{out} 2>&1" if out == err else f">>{out} 2>>{err}"
    if not request.output_file and not request.error_file:
        return "", redirects
    # `true`, because a failing redirect of a special builtin would end the wrapper without an exit record
    opened = f"{{ true >{out} && true >{err}; }} 2>/dev/null || finish {UNBEGUN_EXIT} output\n"
    return f"umask {layout.umask}\n{opened}umask 077\n" if layout.umask else opened, redirects


def _body(request: JobRequest, layout: Layout) -> str:
    lines = ["set --", '[ -z "${BASH_VERSION-}" ] || set -o pipefail']
    if layout.umask:
        lines.append(f"umask {layout.umask}")
    if layout.files:  # more than 1024 breaks programs that use select()
        lines.append(f"ulimit -S -n {layout.files}")
    if request.init:
        lines.append(request.init)
    lines += [assignment(name, value) for name, value in request.env]
    if request.init:  # which may have gone elsewhere
        lines.append(f"cd -- {shell_path(request.working_dir or work_folder(layout.folder))} || exit {UNBEGUN_EXIT}")
    return "\n".join((*lines, request.command, ""))
