"""The agent's disk: what a site needs to go on after its nodes restarted without the cloud.

`document` is the format of one file, `directory` the files, `snapshotter` decides when one is written. What the
records mean (objects of a source, cached responses) is their owner's business. Its invariant is that what is read
back is exactly what was once written. Held by ``tests/agent/test_snapshot.py``.
"""

from sitegrid.agent.snapshot.directory import Directory
from sitegrid.agent.snapshot.document import ESSENTIAL, DamagedError, Document, Record
from sitegrid.agent.snapshot.snapshotter import Snapshotter

__all__ = ["ESSENTIAL", "DamagedError", "Directory", "Document", "Record", "Snapshotter"]
