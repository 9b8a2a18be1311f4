"""Sphinx configuration; `generated` fills the tables that come from code and from measurements."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from generated import escape_bars, fill_tables, short_types  # noqa: E402

from astrid_dist import __version__  # noqa: E402

project = "AstrID Dist"
author = "The AstrID Dist developers"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_static_path = ["_static"]
html_theme_options = {
    "description": "Astronomical transients at survey scale",
    "page_width": "1080px",
    "sidebar_width": "230px",
    "fixed_sidebar": True,
}
html_title = f"AstrID Dist {release}"
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}


def setup(app):
    app.connect("source-read", fill_tables)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-process-signature", short_types)
