"""Folders of trials -> one HTML page that opens from disk with no network: tables, forgetting curves, matrices.

The page is plain text in a fixed order: the same folders give the same bytes. Every name comes from a user's YAML and is
escaped. Styles and the page's script are in report.html.in, the charts in charts.py, the numbers in comparison.py.
"""

import base64
import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from . import charts
from .charts import Figure, Look, Variants
from .comparison import COLUMNS, VIEWS, Result, Row, best, cell, drawn_mean, finished, results_of, table, views_of
from .errors import UserError
from .files import read_json, write_text
from .metrics import TITLES
from .report_text import HEADS, NOTES, READING
