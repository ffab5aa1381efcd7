"""RunRecord -> one self-contained HTML file."""

from vitalfew.report._render import render, write_report

__all__ = ["render", "write_report"]
