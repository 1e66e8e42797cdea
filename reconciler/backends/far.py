"""What is run on the login node: one shell program for each thing that cluster.py asks of it, as text. Pure.

A program is sent whole (hosts/base.py) and runs with builtins only, but for the scheduler's commands and what is named here; so the
cost of a job beside its `sbatch` is a few file operations. Each line of the answer that counts begins with the *mark*, a random word
of this call, so that neither a profile's greeting nor a user's text can be taken for one:

    MARK:<word> <fields>       one of ours; reply.py reads them
    MARK|…                     a row of the scheduler's own (dialect.py)
    anything else              noise, or why a command failed

Every program but `survey` first compares `owner` with whom it acts for, and does nothing when another has the spool.
Names of jobs, runs and arrays are checked by who calls this (core/names.py, packing.py): they hold no character that a shell knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reconciler.backends.base import FileRequest, JobRequest
from reconciler.backends.dialect import Dialect, Submission
from reconciler.backends.far_marks import cancel_mark, claim_line, revocation
from reconciler.backends.marks import INTERRUPTED, Owner
from reconciler.backends.packing import Batch
from reconciler.backends.script import shell_path
from reconciler.core.env import quote
from reconciler.core.names import parse_job_name
from reconciler.core.observed import Answer

#: Where a scheduler's own words about a job go; of an array's elements each has its index after it.
OUTPUT = "scheduler.out"
#: So many limits are met in one program before it stops asking.
LIMITS_MAX = 3
#: Begins with an end of line: a profile's greeting may lack its own, and would swallow our first line.
_SAY = r"""say() { printf '%s\n' "$MARK:$*"; }
echo
newline='
'
set -f
text=
one_line() { IFS=$newline; text=; for line in $out; do text="$text$line; "; done; unset IFS; text=${text%; }; }
"""


@dataclass(frozen=True, slots=True)
class Desk:
    """What every program needs: whose it is, where, and in which words. `root` is the instance's spool, absolute."""

    root: str
    owner: Owner
    dialect: Dialect

    def program(self, mark: str, body: str) -> str:
        """`body`, to be run in the spool if it is ours."""
        return f"""{_SAY.replace("$MARK", mark)}{self.dialect.prologue}
umask 077
cd -- {quote(self.root)} 2>/dev/null || {{ say gone; exit; }}
ours() {{
  held=
  {{ read -r held <owner; }} 2>/dev/null
  [ "$held" = {quote(self.owner.text().strip())} ] || {{ say owner "$held"; return 1; }}
}}
ours || exit
say begin
{body}
say end
"""


def survey(mark: str, spool: str, instance: str) -> str:
    """What the far side is, before anything is done there: `spool` is absolute or `~/…`. Makes nothing."""
    return f"""{_SAY.replace("$MARK", mark)}say umask "$(umask)"
say home "$HOME"
say shell "${{SHELL-}}"
say user "$(id -un)"
say node "$(uname -n)"
say clock "$(date +%s.%N)"
root={shell_path(spool)}/{quote(instance)}
say root "$root"
if [ -d "$root" ]; then
  cd -- "$root" && say root "$(pwd -P)"
  held=; {{ read -r held <owner; }} 2>/dev/null
  [ -z "$held" ] || say held "$held"
  [ -n "$held" ] || [ ! -e owner ] || say unreadable # it is somebody's, and not nobody's
fi
say end
"""


def own(mark: str, root: str, held: str, owner: Owner) -> str:
    """Take the spool for `owner`, if it is still held as `held` says ("": by nobody)."""
    return f"""{_SAY.replace("$MARK", mark)}umask 077
out=$(mkdir -p -- {quote(root)}/runs {quote(root)}/exits 2>&1) || {{ one_line; say failed "$text"; exit; }}
cd -- {quote(root)} || exit
now=; {{ read -r now <owner; }} 2>/dev/null
[ -n "$now" ] || [ ! -e owner ] || {{ say failed "its owner's record cannot be read"; exit; }}
[ "$now" = {quote(held)} ] || {{ say owner "$now"; exit; }}
put() {{ printf '%s\\n' {quote(owner.text().strip())} >owner.$$ && mv -f owner.$$ owner; }}
out=$(put 2>&1) || {{ one_line; say failed "$text"; exit; }}
say root "$(pwd -P)"
say end
"""


def tried(mark: str, root: str, programs: Sequence[str]) -> str:
    """Whether a file can be made in the spool, or where it would be: `failed <why>` or nothing. Its size, its file system, what is free,
    the quota; and where these programs are: `program <name> <path>`, without a path for one that is not there."""
    return f"""{_SAY.replace("$MARK", mark)}set -f
say path "$PATH"
for each in {" ".join(programs)}; do say program "$each $(command -v "$each")"; done
d={quote(root)}
while [ ! -e "$d" ] && [ "$d" != / ]; do d=${{d%/*}}; d=${{d:-/}}; done
out=$({{ umask 077; printf x >"$d/.try.$$" && rm -f -- "$d/.try.$$"; }} 2>&1) || {{ one_line; say failed "$text"; }}
[ -d {quote(root)} ] && out=$(timeout 20 du -sk -- {quote(root)} 2>/dev/null) && say size "${{out%%[!0-9]*}}"
out=$(timeout 10 stat -f -c %T -- "$d" 2>/dev/null) && say kind "$out"
out=$(timeout 10 df -hP -- "$d" 2>/dev/null | tail -n 1) && {{ set -- $out; [ $# -ge 4 ] && say free "$4 of $2"; }}
out=$(timeout 10 quota -s 2>/dev/null | tail -n +3) && [ -n "$out" ] && {{ one_line; say quota "$text"; }}
say end
"""


# Looking


def mail() -> str:
    """Shell text that tells the mailbox: `mail <job> <record>`, and `time <job> <when>` of each."""
    return r"""say clock "$(date +%s.%N)"
cd exits && { set +f; set -- *; set -f
[ "$1" = '*' ] || {
  for job; do [ -f "$job" ] && { line=; { IFS= read -r line <"$job"; } 2>/dev/null; say mail "$job $line"; }; done
  find . -maxdepth 1 -type f -printf "$MARK:time %f %T@\n" 2>/dev/null
}; cd ..; }
"""


def looked_away(desk: Desk, mark: str, jobs: Sequence[str]) -> str:
    """Empty the mailbox of `jobs`."""
    return desk.program(mark, "\n".join(f"rm -f -- {' '.join(f'exits/{job}' for job in part)}" for part in _parts(jobs, 1000)))


def asked(command: str, mark: str, word: str) -> str:
    """Shell text that runs a command of the scheduler; `<word>-end <its exit code>` follows what it printed, on a line of its own."""
    return f"say {word}\n{{ {command}\n}} 2>&1\nprintf '\\n%s %s\\n' {mark}:{word}-end $?\n" if command else ""


def looked(desk: Desk, mark: str, full: bool) -> str:
    """One look: the live queue if `full`, then the mailbox."""
    queue = asked(desk.dialect.queue(mark), mark, "queue") if full else ""
    return desk.program(mark, queue + mail().replace("$MARK", mark))


def queue_only(desk: Desk, mark: str) -> str:
    """The live queue of this user. Read by whoever owns nothing, too."""
    return question(desk.dialect, mark, "queue", desk.dialect.queue(mark))


def accounts_only(desk: Desk, mark: str, ids: Sequence[str]) -> str:
    """What the accounting says of these job ids."""
    return desk.program(mark, asked(desk.dialect.accounts(mark, ids), mark, "accounts"))


def measured(desk: Desk, mark: str) -> str:
    """How large the spool is: `size <KiB>`, nothing when that takes too long."""
    return desk.program(mark, "size=$(timeout 30 du -sk . 2>/dev/null) && say size \"${size%%[!0-9]*}\"")


def question(dialect: Dialect, mark: str, word: str, command: str) -> str:
    """One command of the scheduler, by anybody."""
    return f"{_SAY.replace('$MARK', mark)}{dialect.prologue}\nsay begin\n{asked(command, mark, word)}say end\n"


def records(desk: Desk, mark: str, jobs: Sequence[str], arrays: Sequence[tuple[str, str]]) -> str:
    """What the spool holds about these jobs, by name; and who is in these arrays, (run, folder) each."""
    return desk.program(
        mark,
        r"""tell() { while IFS= read -r line || [ -n "$line" ]; do say "$1 $line"; done <"$2"; } # also the half of a line
members() {
  d=runs/$1/$2
  [ -d "$d" ] || return
  set +f; for file in "$d"/[0-9]*; do set -f; job=; { read -r job <"$file"; } 2>/dev/null; say "member $2 ${file##*/} $job"; done; set -f
}
about() {
  f=runs/${1%%.*}/$1
  [ -d "$f" ] || return
  set +f; set -- "$1" "$f"/*; set -f # opens the folder: a network file system then asks anew what is in it
  n=1
  while [ -f "$f/claim.$n" ]; do
    tell "claim $1 $n" "$f/claim.$n"
    array=; { read -r _ _ _ _ _ array _ <"$f/claim.$n"; } 2>/dev/null
    case $array in +*) [ -f "$f/../$array/state" ] && tell "claim $1 $n" "$f/../$array/state" ;; esac
    n=$((n + 1))
  done
  n=0
  # an empty one is a start, too: its disk was full
  while [ -f "$f/start.$n" ]; do line=; { IFS= read -r line <"$f/start.$n"; } 2>/dev/null; say "start $1 $n $line"; n=$((n + 1)); done
  [ -f "$f/exit" ] && { tell "exit $1" "$f/exit"; ended="$ended $f/exit"; }
  [ -f "$f/fenced" ] && tell "fenced $1" "$f/fenced"
  [ -f "$f/cancel" ] && tell "cancel $1" "$f/cancel"
}
ended=
"""
        + "".join(f"members {run} {folder}\n" for run, folder in arrays)
        + "".join(f"about {job}\n" for job in jobs)
        + f'[ -z "$ended" ] || find $ended -maxdepth 0 -printf "{mark}:exited %h %T@\\n" 2>/dev/null\n',
    )


def explained(desk: Desk, mark: str, jobs: Sequence[str]) -> str:
    """What the scheduler remembers of these job ids."""
    return desk.program(mark, asked(desk.dialect.jobs(mark, jobs), mark, "jobs"))


def said(desk: Desk, mark: str, jobs: Sequence[tuple[str, str, int]]) -> str:
    """The end of what the scheduler itself wrote into these jobs' output: why it ended them, in its words. Each as (job, its array's
    folder or "", index)."""
    lines = [f"out=$(tail -c 600 -- {_scheduler_output(*job)} 2>/dev/null); one_line; say said {job[0]} \"$text\"" for job in jobs]
    return desk.program(mark, "\n".join(lines))


def _scheduler_output(job: str, array: str, index: int) -> str:
    return f"runs/{job.partition('.')[0]}/{array}/{OUTPUT}.{index}" if array else f"{_folder(job)}/{OUTPUT}"


def everything(desk: Desk, mark: str) -> str:
    """Every run and job that has a folder: `run <run>` and `job <job>`. Read by whoever owns nothing, too."""
    return f"""{_SAY.replace("$MARK", mark)}cd -- {quote(desk.root)} 2>/dev/null || {{ say end; exit; }}
set +f
for f in runs/*/*.*; do [ -d "$f" ] && say job "${{f##*/}}"; done
say end
"""


# Acting


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch with the script of each of its jobs, and the shell text (script.py) that an array needs to find them."""

    batch: Batch
    scripts: tuple[str, ...]
    comment: str


def submitted(desk: Desk, mark: str, parcels: Sequence[Parcel], step: str) -> str:
    """Claim, send and record each parcel, in order; stop at the third limit, and at the first passing trouble or doubt.

        was <job> <job id>          it had been sent before            doubt <job>         somebody had claimed it, and no answer is known
        ok <job or array> <id>      the scheduler took it              no <job or array> <class> <code> <text>
        bad <job> <text>            proven that it cannot be sent      unsent <job> <text>  proven that it was not
        in <array> <index>          a member that was claimed          stop <class>         nothing after this was claimed
    """
    runs = {parcel.batch.jobs[0].run for parcel in parcels}
    making = "".join(
        f'[ -n "$why" ] || [ -e runs/{run}/closed ] || why=$(mkdir -p -- {" ".join(part)} 2>&1)\n'
        for run in sorted(runs)
        for part in _parts([each for parcel in parcels if parcel.batch.jobs[0].run == run for each in _folders(parcel.batch)], 500)
    )
    closed = "".join(f"[ ! -e runs/{run}/closed ] || closed=\"$closed {run} \"\n" for run in sorted(runs))
    head = _sender(desk, step) + f"closed= why= stop= limits=0\n{closed}{making}"
    tail = 'rm -f -- "$answer"\n[ -z "$stop" ] || say "stop $stop"\n'
    return desk.program(mark, head + "".join(_parcel(desk, each) for each in parcels) + tail)


#: The submit command writes to a file, and not into `$( … )`, because that forks the whole of a shell that holds hundreds of scripts. The
#: file is on the login node's own disk.
_SENDERS = r"""heard() { out=; while IFS= read -r line || [ -n "$line" ]; do out=$out$line$newline; done <"$answer"; }
answer=$(mktemp 2>/dev/null) || answer=.answer.$$
single() { # job script
  take "$1" - 0 || return
  printf '%s' "$2" >|"$f/script" || { echo 'refused 1 transient end' >>"$c"; say unsent "$1 its script cannot be written"; return 1; }
  echo 'sent 1 end' >>"$c" || { say unsent "$1 the spool cannot be written"; return 1; }
}
element() { # job index script
  take "$1" "$a" "$2" || return
  { printf '%s' "$3" >|"$f/script" && printf '%s\n' "$1" >|"$d/$2"; } || {
    echo 'refused 1 transient end' >>"$c"; say unsent "$1 its script cannot be written"; return 1; }
  won="$won,$2"; say in "$a $2"
}
"""


def _sender(desk: Desk, step: str) -> str:
    start = claim_line(desk.owner, step, "", 0).rpartition(" - ")[0]
    dialect = desk.dialect
    return f"""set -C
take() {{ # job array index: 0 when the claim of the name is ours
  f=runs/${{1%%.*}}/$1 n=1 mine="{start} $2 $3 end"
  while :; do
    c=$f/claim.$n
    if [ ! -e "$c" ] && {{ echo "$mine" >"$c"; }} 2>/dev/null; then
      [ ! -e "$f/start.0" ] || {{ say doubt "$1"; return 1; }} # revoked before it was sent
      return 0
    fi
    first= last= array= index=
    {{ while IFS= read -r line; do first=${{first:-$line}} last=$line; done <"$c"; }} 2>/dev/null
    [ "$last" != "$mine" ] || return 0 # a retried call of a network file system may say that what it has just made exists
    case $first in *' +'*) array=${{first##* +}}; index=${{array#* }}; index=${{index%% *}}; array=+${{array%% *}}
      # what became of the array; not of a member that was left out of it
      [ "$last" != "$first" ] || {{ while IFS= read -r line; do last=$line; done <"runs/${{1%%.*}}/$array/state"; }} 2>/dev/null ;;
    esac
    case $last in
    'refused 1 '*' end') n=$((n + 1)) ;;
    'id 1 '*' end') id=${{last#id 1 }}; id=${{id% end}}; [ -z "$array" ] || id="{dialect.element}"; say was "$1 $id"; return 1 ;;
    *) if [ -e "$c" ]; then say doubt "$1"; else out=$({{ echo "$mine" >"$c"; }} 2>&1); one_line; say unsent "$1 $text"; fi; return 1 ;;
    esac
  done
}}
fit() {{ # job: 0 when nothing forbids to claim it
  [ -z "$stop" ] || return
  ours || {{ stop=owner; return 1; }}
  case $closed in *" ${{1%%.*}} "*) say bad "$1 its run is over and was cleaned away"; return 1 ;; esac
  [ -z "$why" ] || {{ out=$why; one_line; say unsent "$1 the spool cannot be written: $text"; return 1; }}
}}
new() {{ [ ! -e "runs/${{1%%.*}}/$1/claim.1" ]; }}
bad() {{ say bad "$1 $2"; return 1; }}
can_be_written() {{ if [ -e "$1" ]; then [ -f "$1" ] && [ -w "$1" ]; else [ -d "${{1%/*}}" ] && [ -w "${{1%/*}}" ]; fi; }}
{_told(dialect)}{_SENDERS}"""


def _told(dialect: Dialect) -> str:
    classes = {Answer.REFUSED: "refused", Answer.LIMIT: "limit", Answer.TRANSIENT: "transient"}
    cases = "".join(f"  *{quote(piece)}*) class={classes[answer]} ;;\n" for piece, answer in dialect.answers)
    return f"""told() {{ # job or array, file of its state: classify what the submit command said
  id=
  if [ "$code" = 0 ]; then
{dialect.accept}
  fi
  if [ -n "$id" ]; then echo "id 1 $id end" >>"$2"; say ok "$1 $id"; return; fi
  class=unknown
  [ "$code" = 0 ] || case $out in
{cases}  esac
  [ $class = unknown ] || echo "refused 1 $class end" >>"$2"
  case $class in
  refused) ;;
  # what is full for one account or partition may not be for another
  limit) limits=$((limits + 1)); [ "$limits" -lt {LIMITS_MAX} ] || stop=limit ;;
  *) stop=$class ;;
  esac
  one_line; say no "$1 $class $code $text"
}}
"""


def _parcel(desk: Desk, parcel: Parcel) -> str:
    batch = parcel.batch
    checks = [_checked(job) for job in batch.jobs]
    if batch.array is None:
        [job], [script], [check] = batch.jobs, parcel.scripts, checks
        folder = f"{desk.root}/{_folder(job.job)}"
        told = Submission(batch.name, parcel.comment, folder, f"{folder}/script", f"{folder}/{OUTPUT}", batch.asked)
        return f"""if fit {job.job}{check} && single {job.job} {quote(script)}; then
{desk.dialect.submit(told)} >|"$answer" 2>&1; code=$?; heard
told {job.job} "$c"
fi
"""
    name = batch.array.folder
    folder = f"{desk.root}/runs/{batch.array.run}/{name}"
    told = Submission(batch.name, parcel.comment, folder, f"{folder}/script", f"{folder}/{OUTPUT}", batch.asked, '"${won#,}"')
    members = "".join(
        f"fit {job.job}{check} && element {job.job} {index} {quote(script)}\n"
        for index, (job, script, check) in enumerate(zip(batch.jobs, parcel.scripts, checks, strict=True))
    )
    everybody = ",".join(map(str, range(len(batch.jobs))))
    return f"""a={name} d=runs/{batch.array.run}/{name} won=
{members}[ "$won" != ,{everybody} ] || won=,0-{len(batch.jobs) - 1}
ready() {{ ours && printf '%s' {quote(array_script(desk, folder, batch.array.run))} >|"$d/script" && echo 'sent 1 end' >|"$d/state"; }}
if [ -n "$won" ] && ready; then
{desk.dialect.submit(told)} >|"$answer" 2>&1; code=$?; heard
told "$a" "$d/state"
elif [ -n "$won" ]; then
echo 'refused 1 transient end' >>"$d/state"; say no "$a transient 0 the spool cannot be written"; stop=transient
fi
"""


def array_script(desk: Desk, folder: str, run: str) -> str:
    """The script of an array: each element becomes the job that its file names."""
    return f"""#!/bin/sh
# Each element runs the script of its own job, whose name is in the file called by its index.
{{ read -r job <{quote(folder)}/{desk.dialect.index}; }} 2>/dev/null || exit 121
exec /bin/sh {quote(f"{desk.root}/runs/{run}")}/"$job"/script
"""


def _checked(request: JobRequest) -> str:
    """Shell text that finds out whether the job's folders are there: a scheduler runs a job without them elsewhere, or not at all."""
    tests = []
    job, where = request.job, '"$HOME"'
    if request.working_dir:
        where = shell_path(request.working_dir)
        words = quote(f"the working directory {request.working_dir} does not exist there, or cannot be entered")
        tests.append(f"{{ [ -d {where} ] && [ -x {where} ]; }} || bad {job} {words}")
    for path in dict.fromkeys(filter(None, (request.output_file, request.error_file))):
        whole = shell_path(path) if path.startswith(("/", "~/")) else f"{where}/{quote(path)}"
        words = quote(f"{path} cannot be written there: make its folder first, or choose another")
        tests.append(f"can_be_written {whole} || bad {job} {words}")
    if not tests:
        return ""
    joined = "; } && { ".join(tests)
    return f" && {{ ! new {job} || {{ {{ {joined}; }}; }}; }}"


def _folders(batch: Batch) -> list[str]:
    own = [f"{_folder(job.job)}{'' if job.working_dir else '/work'}" for job in batch.jobs]
    return [*own, f"runs/{batch.array.run}/{batch.array.folder}"] if batch.array else own


def revoked(desk: Desk, mark: str, jobs: Sequence[tuple[str, bool]]) -> str:
    """Take the start of each job, and say what was there: `fenced`, `started` (left alone), `ending` (to be ended) or `ended`, with the
    job id of the start record ("" when a full disk left none in it: somebody took it, and nobody else can). With `kill` (the second of
    each pair) a mark says that it was us who ended it."""
    body = f"""set -C
mine={quote(revocation(desk.owner))}
# half a record could never be told from a job's: so it is tried first whether the disk takes one
full=$({{ echo "$mine" >|revoking; }} 2>&1) || full=${{full:-the spool cannot be written}}
revoke() {{ # job kill
  f=runs/${{1%%.*}}/$1
  [ -z "$full" ] || {{ out=$full; one_line; say unknown "$1 $text"; return; }}
  [ -d "$f" ] || out=$(mkdir -p -- "$f" 2>&1) || {{ one_line; say unknown "$1 $text"; return; }}
  if {{ echo "$mine" >"$f/start.0"; }} 2>/dev/null; then say fenced "$1"; return; fi
  was=; {{ read -r was <"$f/start.0"; }} 2>/dev/null
  case $was in
  'revoked 1 '*) say fenced "$1"; return ;;
  'start 1 job '*' end') id=${{was#start 1 job }}; id=${{id%% *}} ;;
  *) id= ;;
  esac
  if [ -f "$f/exit" ]; then
    was=; {{ read -r was <"$f/exit"; }} 2>/dev/null
    case $was in *' {INTERRUPTED} '*' end') ;; *) say ended "$1 $id"; return ;; esac # that one may be started again
  fi
  if [ "$2" = 0 ]; then say started "$1 $id"; return; fi
  [ -e "$f/cancel" ] || echo {quote(cancel_mark(desk.owner))} >|"$f/cancel"
  say ending "$1 $id"
}}
"""
    return desk.program(mark, body + "".join(f"revoke {job} {int(kill)}\n" for job, kill in jobs))


def ended(desk: Desk, mark: str, ids: Sequence[str]) -> str:
    """End these jobs. Their identity has been verified."""
    return desk.program(mark, asked(desk.dialect.cancel(ids), mark, "cancel"))


def cleaned(desk: Desk, mark: str, runs: Sequence[str]) -> str:
    """Close these runs for ever, and remove what is kept of them: `clean <run>` for each of which nothing is left."""
    body = """close() {
  [ -d "runs/$1" ] || { say clean "$1"; return; }
  echo closed >>"runs/$1/closed" 2>/dev/null || return
  find "runs/$1" -mindepth 1 -maxdepth 1 ! -name closed -exec rm -rf -- {} + 2>/dev/null
  find exits -maxdepth 1 -name "$1.*" -exec rm -f -- {} + # may be more than fit into one command
  set +f; set -- "$1" "runs/$1"/*; set -f
  [ $# = 2 ] && say clean "$1"
}
"""
    return desk.program(mark, body + "".join(f"close {run}\n" for run in runs))


def part_of_file(mark: str, desk: Desk, request: FileRequest) -> str:
    """A range of one file, raw, after `file <size>`; or `no-file`, or `problem <text>`."""
    folder = f"{quote(desk.root)}/{_folder(request.job)}"
    where = shell_path(request.working_dir) if request.working_dir else f"{folder}/work"
    if request.path in ("out", "err"):
        path = f"{folder}/{request.path}"
    else:
        path = shell_path(request.path) if request.path.startswith(("/", "~/")) else f"{where}/{quote(request.path)}"
    start = f"$((size > {-request.offset} ? size - {-request.offset} : 0))" if request.offset < 0 else str(request.offset)
    return f"""{_SAY.replace("$MARK", mark)}p={path}
[ -e "$p" ] || {{ say no-file; exit; }}
[ -f "$p" ] || {{ say problem "it is no plain file"; exit; }}
[ -r "$p" ] || {{ say problem "it cannot be read"; exit; }}
size=$(wc -c <"$p") && size=$((size)) start={start}
say file "$size"
tail -c "+$((start + 1))" -- "$p" | head -c {request.bytes_max}
"""


def _folder(job: str) -> str:
    name = parse_job_name(job)
    if name is None:
        raise ValueError(f"{job!r} is not a job name")
    return f"runs/{name.run}/{job}"


def _parts(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[first : first + size] for first in range(0, len(items), size))
