"""The table of formats: what it names is there, for both commands."""

from __future__ import annotations

from dataclasses import is_dataclass
from pkgutil import iter_modules

import pytest

import robometer_rl.formats
from robometer_rl.formats.table import FORMATS, IMPORTED, RELABELLED, detect_format


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_can_be_read_or_labelled(name):
    assert name in IMPORTED or name in RELABELLED


@pytest.mark.parametrize("name", IMPORTED)
def test_a_reader_has_options_with_a_path(name):
    config = IMPORTED[name].config
    assert is_dataclass(config)
    assert "path" in config.__dataclass_fields__


@pytest.mark.parametrize("name", RELABELLED)
def test_what_is_no_dataset_looks_like_no_format(name, tmp_path):
    assert not RELABELLED[name].matches(tmp_path)
    with pytest.raises(ValueError, match="looks like none of the formats"):
        detect_format(tmp_path)


def test_every_folder_of_a_format_is_in_the_table():
    folders = {each.name for each in iter_modules(robometer_rl.formats.__path__) if each.ispkg}
    named = {reader.function.partition(".")[0] for reader in IMPORTED.values()}
    assert folders <= named
