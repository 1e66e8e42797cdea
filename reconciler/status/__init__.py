"""What people and other tools read: one YAML file for each object and run. Nothing ever decides from it.

writer.py      StatusWriter: when each file is written, on a thread of its own, within its share of time
folder.py      where a file lies, written whole or not at all, never outside of the status folder
documents.py   records -> the documents that are written
"""

from reconciler.status.documents import RunView, condition_rows, object_document, run_document, view_of
from reconciler.status.writer import Asked, StatusWriter

__all__ = ["Asked", "RunView", "StatusWriter", "condition_rows", "object_document", "run_document", "view_of"]
