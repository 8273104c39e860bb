"""Configuration of the site: `python -m tox -e docs` builds it into docs/_build/html."""

import os
import re
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import customfit

DOCS = Path(__file__).parent
FIGURES = DOCS / "_build" / "figures"  # what the examples draw

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
html_static_path = ["_static"]
html_css_files = ["site.css"]
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
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# -------------------------------------------------------------------------------------------------------- reference

autosummary_generate = True
autosummary_ignore_module_all = False
templates_path = ["_templates"]
autodoc_typehints = "none"  # the docstrings say in words what is taken
autodoc_member_order = "bysource"
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

ORDER = [
    "quickstart",
    "fit_or_custom_fit",
    "tutorial",
    "several_validation_sets",
    "clipping",
    "accumulation",
    "mixed_precision",
    "resume",
    "fine_tuning",
    "text",
    "tabular",
    "time_series",
    "own_loop",
    "distillation",
    "sam",
    "gan",
    "two_workers",
]


def arguments_of(gallery_conf, script_vars):
    """Asks an example that draws for its figure."""
    script = Path(script_vars["src_file"])
    return ["--output", str(FIGURES / f"{script.stem}.png")] if '"--output"' in script.read_text() else []


def figures_of(block, block_vars, gallery_conf):
    """Shows what an example has drawn: `--output` has said where to."""
    from sphinx_gallery.scrapers import figure_rst

    drawn = FIGURES / f"{Path(block_vars['src_file']).stem}.png"
    shown = []
    if drawn.exists():
        shown = [next(block_vars["image_path_iterator"])]
        shutil.move(drawn, shown[0])
    return figure_rst(shown, gallery_conf["src_dir"])


def as_before(gallery_conf, example):
    """Undoes what an example has set for its process."""
    from customfit.compat import keras, tf

    keras.mixed_precision.set_global_policy("float32")
    keras.backend.clear_session()
    tf.config.run_functions_eagerly(False)


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": os.environ.get("DOCS_EXAMPLES", r"\.py$"),  # which to run: "quickstart" while you write
    "within_subsection_order": lambda folder: lambda name: ORDER.index(Path(name).stem),
    "image_scrapers": (figures_of,),
    "reset_argv": arguments_of,
    "reset_modules": (as_before,),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "plot_gallery": True,
}


def setup(app):
    FIGURES.mkdir(parents=True, exist_ok=True)
    sys.argv[1:] = []
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon
