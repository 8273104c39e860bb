"""How sphinx-gallery runs the examples. `conf.py` names these functions."""

import shutil
from pathlib import Path

FIGURES = Path(__file__).parent / "_build" / "figures"  # what the examples draw

ORDER = (  # noqa: SIM905
    "quickstart fit_or_custom_fit tutorial several_validation_sets clipping accumulation mixed_precision resume "
    "fine_tuning text tabular time_series own_loop distillation sam gan two_workers"
).split()


def order(name):
    """Returns where in the gallery an example comes."""
    return ORDER.index(Path(name).stem)


def arguments_of(gallery_conf, script_vars):
    """Asks an example that draws for its figure, and one with a progress bar for lines instead."""
    script = Path(script_vars["src_file"])
    options = {"--output": str(FIGURES / f"{script.stem}.png"), "--verbose": "2"}
    return [word for option in options if f'"{option}"' in script.read_text() for word in (option, options[option])]


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
