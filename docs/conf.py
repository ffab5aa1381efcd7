"""Sphinx settings: `make docs`."""

import os
import sys
from pathlib import Path

# the examples solve many small problems: threads of BLAS would cost more than they give
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import vitalfew  # noqa: E402

project = "vitalfew"
author = "The vitalfew developers"
copyright = "The vitalfew developers"
version = release = vitalfew.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "class_tables",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**/README.txt", "sg_execution_times.rst"]
nitpicky = False
default_role = "autolink"  # `name` links where it can and is emphasised where not

# -- reference -------------------------------------------------------------------------

autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autosummary_filename_map = {"vitalfew.Path": "vitalfew.Path-class"}  # beside `path`
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections say it, with shapes
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# -- gallery ---------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "ignore_pattern": r"^(?!.*plot_).*\.py$",
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
    "reset_modules": ("matplotlib",),
}

# -- pages -----------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "vitalfew"
html_static_path = ["_static"]
html_css_files = ["vitalfew.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
html_sidebars = {
    name: []
    for name in (
        "index",
        "start_here",
        "how_to_choose",
        "conventions",
        "changelog",
        "select_command",
        "prune_a_network",
        "prune_while_training",
        "prune_command",
        "bench_command",
    )
}
