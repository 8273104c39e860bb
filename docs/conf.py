"""Configuration of the site: `python -m tox -e docs` builds it into docs/_build/html."""

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import customfit

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))  # for `gallery_options`

project = "customfit"
author = "The customfit maintainers"
copyright = author
version = release = customfit.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "jupyter_execute", "gallery/*.py", "gallery/*.ipynb", "gallery/*.md5", "gallery/*.zip"]
html_theme = "pydata_sphinx_theme"
html_title = f"customfit {version}"
html_context = {"default_mode": "auto"}  # light or dark as the browser asks
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {page: [] for page in ("index", "start", "learn")}  # which have no pages below them
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "header_links_before_dropdown": 8,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}

# ------------------------------------------------------------------------------------------------- pages in Markdown

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / "_build" / "notebooks")
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def link_to_pages(app, relative_path, parent_docname, content):
    """Lets a file that lies beside the code, and links to another one there, link to that one's page."""
    content[0] = content[0].replace("](SCALING.md)", "](scaling.md)")


# -------------------------------------------------------------------------------------------------------- reference

autosummary_generate = True
autosummary_ignore_module_all = False
templates_path = ["_templates"]
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # the docstrings say in words what is taken
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # Keras documents its hooks
autodoc_default_options = {"show-inheritance": False}
default_role = "code"  # docstrings are written in Markdown's single backticks
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


def as_rst(app, what, name, obj, options, lines):
    """Turns fenced code of a docstring, and "Example:" before it, into what Sphinx reads."""
    text = re.sub(
        r"^( *)```python\n(.*?)\n\1```$",
        lambda found: f"{found[1]}.. code-block:: python\n\n" + re.sub(r"^(?=.)", "    ", found[2], flags=re.MULTILINE),
        "\n".join(lines),
        flags=re.DOTALL | re.MULTILINE,
    )
    lines[:] = text.split("\n")


# ---------------------------------------------------------------------------------------------------------- gallery

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": os.environ.get("DOCS_EXAMPLES", r"\.py$"),  # which to run: "quickstart" while you write
    "within_subsection_order": "gallery_options.order",
    "image_scrapers": ("gallery_options.figures_of",),
    "reset_argv": "gallery_options.arguments_of",
    "reset_modules": ("gallery_options.as_before",),
    "abort_on_example_error": True,
    "default_thumb_file": str(DOCS / "images" / "printed.png"),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "plot_gallery": True,
}


def setup(app):
    (DOCS / "_build" / "figures").mkdir(parents=True, exist_ok=True)
    app.connect("include-read", link_to_pages)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon
