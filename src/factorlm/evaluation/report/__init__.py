"""Reports as files and for the terminal; `factorlm.evaluation.document` says what is in them."""

from factorlm.evaluation.report.files import write_report
from factorlm.evaluation.report.terminal import terminal

__all__ = ["terminal", "write_report"]
