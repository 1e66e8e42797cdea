"""Manifests: text -> models -> what is asked for (core/desired.py).

yamlfile, load.py   text -> plain data with line numbers -> models; every problem as file:line:column
schema*.py          the models, as written by people (pydantic); split by noun
fields.py           the forms of single values: durations, memory, times, git urls
canonical.py        what of a workflow decides whether it must run again, as one text
resolve.py          one document -> Revision, RunRequest, BackendSpec, SourceSpec; environment of its tasks
generated.py        the file that a generator wrote -> tasks
assemble.py         everything that all sources say -> Desired, with what stalls and why
"""
