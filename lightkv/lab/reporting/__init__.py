"""`lightkv.lab.report`: the results of a grid as one HTML page.

plotly and jinja2 are the extra `report`, imported when a page is drawn.
"""

from lightkv.lab.reporting.page import report
from lightkv.lab.reporting.study import Study, build_study

__all__ = ["Study", "build_study", "report"]
