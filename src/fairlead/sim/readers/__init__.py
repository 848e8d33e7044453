"""Trace readers: what did somebody ask of a fleet, and when?

`read_trace` reads plain and gzipped files and tells their format by what is in them; `read_file` also tells what was
left out. Formats: the table `FORMATS`. Whatever is wrong with a file is a `TraceError` that names file and line.
"""

from fairlead.sim.readers.lines import TraceError
from fairlead.sim.readers.read import FORMATS, Reading, read_file, read_trace

__all__ = ["FORMATS", "Reading", "TraceError", "read_file", "read_trace"]
