"""The tools around Keras, each with its real package and offline: `tox -m tools`. See docs/tools.md."""
