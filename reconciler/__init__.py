"""ScriptHut reconciler: runs what is committed, exactly once, and says so. The map of the package (checked by the tests):

    cli/             one small module per verb group; parses, calls, prints; decides nothing
    daemon.py        composition root: settings -> objects, signals, sd_notify. Beside it places.py, which makes sources and backends (with
                     it the only module that names concrete classes), taking.py (making a backend's far side ours), and consult.py (what
                     verbs ask without a daemon)
    controller.py    the loop: look -> plan -> save -> act; the only caller of core.plan. Its parts:
                     intake.py (what the sources say), outlook.py (what one backend says), fleet.py (the live runs), fresh.py (what is new),
                     workshop.py (tasks made ready), jobrequest.py (a task as a job), saving.py (a cycle as one batch), errands.py (what was
                     saved, carried out),
                     report.py (what people are told) with standing.py (its words) and objectrow.py (one object's row),
                     aside.py (what takes long, on a thread), housekeeping.py (retention where jobs ran)
    ledger/          the only writer of durable state (SQLite), and its readers
    status/          record -> YAML status file; nothing ever decides from it
    config.py        the daemon's own settings -> frozen Settings
    yamlfile.py      the only importer of ruamel.yaml: limits, line numbers. Beside it yamltree.py (what was read, with places),
                     yamlwords.py (its errors in plain words), yamlemit.py (fast emit), yamledit.py (edits that keep everything else),
                     jsonfile.py (the same for task-list files)
    errors.py        the exception tree            log.py        structlog set-up, promised event names, redaction
    clock.py         the only two reads of a clock printable.py  what may be shown of other people's text
    regular.py       reading a file that may be anything
    mounts.py        which file system a folder is on
    core/            PURE: desired, observed, record, actions, names, graph, env, trigger, room, cost, plan, summary
    manifest/        text -> core.desired: schema (pydantic, as written), load (file:line:column errors), resolve (pure)
    sources/         base, git (pygit2, object store, no checkout), folder (watchfiles)
    hosts/           a machine that a program can be run on: base, local, ssh (asyncssh)
    backends/        base (the two interfaces and what a backend owes), script (the job script, pure), local; cluster (any batch system
                     over a host; its parts: far, the programs of the login node; dispatch, sending; sightings and judgement, what was seen
                     and what it comes to; front, for people) and dialect with slurm (what one batch system says of itself, pure)

Layers, nothing imports upwards: errors, clock, printable, regular, mounts, log -> core -> yamlfile, manifest, hosts -> config -> sources,
backends, ledger, status -> controller -> places, consult, daemon -> cli.
"""

__version__ = "0.1.0"
