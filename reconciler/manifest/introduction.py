"""The part of manifests/README.md that people wrote: what a manifest is and when one runs. Called by describe.py; holds text only."""

INTRODUCTION = """\
# Manifests

<!-- Made by `python -m reconciler.manifest.describe > manifests/README.md`; a test compares. Change the models or introduction.py. -->

A manifest is a YAML document that asks for something: a workflow that should have been run, a place where jobs run, a repository
with more manifests. The daemon reads them, works out what is owed, and runs it exactly once. This page first says in plain words
how that goes, then lists every field of every kind. The files beside it are the smallest valid manifest of each kind.

    apiVersion: scripthut/v1
    kind: Workflow
    metadata: {name: diamond, labels: {team: econ}}
    spec:
      backend: hpc
      tasks:
        - {id: setup,   command: bash setup.sh}
        - {id: build.x, command: make x, deps: [setup], cpus: 4, memory: 8G, time_limit: "2:00:00"}
        - {id: build.y, command: make y, deps: [setup]}
        - {id: merge,   command: make dist, deps: ["build.*"]}

`apiVersion` is always `scripthut/v1`. `kind` says what is asked for, `metadata.name` which object it is, `spec` what it should be.
A file may hold several documents, separated by a line `---`. `reconciler validate` checks a folder without running anything, and
`reconciler schema` prints a JSON Schema, with which most editors complete and check fields while you type.

## What is an error

Unknown keys, keys that stand twice, values of the wrong form, and fields that are not supported yet: each is told as
`file:line:column`, all of a file at once, with the nearest name that is known. A bad document never blocks the others. It blocks
itself and what depends on it, and its last good version stays in force.

YAML here is version 1.2: `no`, `on` and `2:00:00` are texts, only `true` and `false` are truth values. Anchors (`&x`), aliases (`*x`),
merge keys (`<<`) and tags (`!x`) are refused, so put text that starts with `&`, `*` or `!` in quotes. A file has at most 1 MB,
10,000 documents, and lists and mappings 50 deep; a YAML file has at most 120,000 words and punctuation marks, which is about
4,000 tasks. Longer task lists are better written as JSON.

## Who may declare what

The operator declares Settings, Backend, Source and Notification, in one trusted folder. A Source brings in more manifests, from a git
repository or a folder; they may declare only the kinds, and use only the backends, that the Source allows. What a Source named `ml`
brings in is called `ml/<name>`.

## ScriptHut's task files

A JSON file with a list of tasks, or with `{"tasks": [...], "env": [...], "env_groups": {...}, "title": "..."}`, is a Workflow. Its name
is its path. It runs when asked to (`trigger: manual`), unless its Source says otherwise.

## When a commit runs something

What is asked for is not "a job exists" but *a record of a run exists for this digest*. The record is kept for ever; the job is not needed
any more once it has ended.

1. The digest covers what affects the result, as declared: tasks, commands, environment, resources, backend, files matched by `paths`,
   the `rerun` token. The tables below mark every such field as *in*. Comments, key order, formatting, file names and every field
   marked *out* are not in it, so changing them runs nothing.
2. `trigger.on: [change]` is the default: a digest without a record gets one run. `paths`, `commit` and `manual` are opt-in.
3. A digest runs at most once by itself, whether it succeeds or fails. To run it again, write `rerun: <any new text>`.
4. Going back to an older digest runs nothing: its old record satisfies it.
5. A new digest while a run is alive waits (`concurrency: queue`, the newest waiting one wins), runs beside it (`allow`) or cancels
   it (`replace`). With the default, a commit never kills a run.
6. A document that moves to another file keeps its name, so it is the same object. Two documents with one name: neither runs.
7. When a document is removed, what runs finishes and what waits is dropped (`on_delete`: `finish`, `cancel`, `orphan`). A commit that
   would remove more than half of a source's objects, and at least 3, removes nothing until you `approve` it.
8. A commit that would start more than `limits.runs_per_commit` runs, or a run above `limits.core_hours_per_run`, waits for `approve`.
9. Every branch and tag is pinned to a commit when the run is made, and never looked up again for that run.
10. A job that you cancel yourself on the cluster stays cancelled. A job that started and vanished is *lost*, and is tried again only if
    `retry.on` has `lost`.
11. A force-push or a commit that vanished never touches a run that has started.
12. Nothing that the daemon writes is ever inside a watched path.

Everything that changes something is a manifest: `rerun`, `approve`, `suspend` and `state` are fields, and the verbs of the command line
of the same names only write them. A Run document asks for a run by hand, or changes one that exists.

## Tasks

A task is one shell command. It waits for the tasks in its `deps` (ids, or patterns like `build.*`), gets the `cpus`, `memory` and
`time_limit` it asks for, and succeeds when the command exits with 0. `when: failure` or `always` starts a task although something before
it failed; `allow_failure` lets the run succeed although this task fails; `retry` tries it again. A task with `generates_source` writes a
task file, whose tasks join the run.

A local job ends when no process of its process group is left. So a program left in the background (`server &`) keeps its task running and
its slot taken, until its time limit; one that leaves the group (`setsid`) is no longer part of the job: it is neither waited for nor
ended by `cancel`. Memory and cpus are not enforced there. A task without a `working_dir` of its own, and none from its source, runs in
an empty folder of the job's.

On a Backend of type slurm the scheduler enforces memory, cpus and time. `partition`, `account`, `qos`, `constraint`, `gres`, `nodes`,
`ntasks`, `reservation` and `licenses` are Slurm's own words; further options of `sbatch` go into `scheduler_args`, if the Backend allows
them. With `retry: {limit: 2, escalate: {memory: 1.5, time_limit: 2}}` a task that ran out of memory is tried again with half as much
more, and one that ran into its time limit with twice the time; any other failure raises nothing. With `requeue: true` Slurm itself may
start a job again after its machine failed or it was preempted: that is the same attempt, and spends no retry; such a task should be one
that may be begun twice. Over ssh the folders of this machine are not there: a task runs in an empty folder of the job's unless its
`working_dir` is absolute or `~/…`, which are those of the cluster.

When a document is taken out of a folder, live runs of it go on for a minute as if nothing had happened (a checkout or `git stash` takes
files away for a moment); only then does `on_delete` count. A commit that removes it counts at once.

## Environment

Rules are evaluated layer by layer: backend, settings, the source, the workflow, the task; within a layer from the first to the last. A rule
may `set` variables, `append` to them with a `:`, run shell text first (`init`), and take in named groups (`include`); an `if` makes it
conditional on variables resolved so far. `${NAME}` of a variable that the rules know is replaced by its value. Any other `${NAME}` is
left for the shell on the backend (`/scratch/${USER}`). Every other character is literal: a value cannot execute anything. Variables that
start with `SCRIPTHUT_` are ours. Jobs never inherit the daemon's environment.

## Status files

What has come of a manifest is written to `<status_dir>/<kind in lower case>/[<source>/]<name>.yaml`, and of a run to
`<status_dir>/run/<run id>.yaml`. They are for people and other tools to read. The daemon never reads them back: editing or deleting
one changes nothing, and it is written again.

Conditions say how it stands. `Ready` is True when the manifest is accepted and honoured; `Reconciling` while something is being done;
`Stalled` when a person must act, and then the message says what to do. Runs and workflows also have `Succeeded`, which is Unknown
while the run is alive.

## Trust

Sources that share a backend user trust each other: whoever may run a task runs as that user. Isolation is one Backend (one user) per
source; a Source may use only the backend it names and those it is allowed. Jobs never inherit the daemon's environment (keys, agent
sockets, cloud credentials). Secrets by file or command come only from names that the operator declared.
"""
