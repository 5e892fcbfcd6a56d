"""Published tables run again: a declarative file to training runs, scores, and our numbers beside the paper's."""

from .jobs import Job, expand, missing_files, run_job
from .report import table_report, write_report
from .runner import reproduce, work
from .table_files import Block, Row, Table, list_tables, load_table, with_settings

__all__ = [
    "Block",
    "Job",
    "Row",
    "Table",
    "expand",
    "list_tables",
    "load_table",
    "missing_files",
    "reproduce",
    "run_job",
    "table_report",
    "with_settings",
    "work",
    "write_report",
]
