"""Manifests: text -> models -> what is asked for (core/desired.py).

yamlfile, load.py   text -> plain data with line numbers -> models; every problem as file:line:column
schema*.py          the models, as written by people (pydantic); split by noun
fields.py           the forms of single values: durations, memory, times, git urls
canonical.py        what of a workflow decides whether it must run again, as one text
origin.py           where documents come from, and what the operator lets them do
resolve.py          one document -> Revision, RunRequest, BackendSpec, SourceSpec
tasks.py, environment.py
                    its tasks, and their environment when a run is made
generated.py        the file that a generator wrote -> tasks
view.py             one tree of one source, read
assemble.py         everything that all sources say -> Desired, with what stalls and why
describe.py, introduction.py
                    the models -> manifests/README.md
"""
