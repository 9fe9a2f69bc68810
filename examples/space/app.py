"""A Hugging Face Space that is the studio, with the embedded model (docs/studio.md)."""

from robometer_rl.studio.commands import UiConfig, run_ui

run_ui(UiConfig(public=True))
