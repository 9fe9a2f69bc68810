from pathlib import Path

import pytest

from robometer_rl.data.target_config import CutoffError, TargetConfig, published_cutoffs, read_cutoffs


def _written(directory: Path, text: str) -> Path:
    path = directory / "cutoffs.csv"
    path.write_text(text)
    return path


def test_the_published_table_has_every_source_of_the_reference() -> None:
    table = published_cutoffs()
    assert len(table) == 65
    assert (table["oxe_droid"], table["agibotworld"], table["metaworld_train"]) == (0.95, 0.95, 1.0)
    assert table["oxe_nyu_rot_dataset_converted_externally_to_rlds"] == 0.7
    assert table["roboreward_berkeley_rpt_converted_externally_to_rlds"] == 0.76


def test_a_table_of_ones_own_takes_its_place(tmp_path: Path) -> None:
    path = _written(tmp_path, "data_source, fraction\n kitchen , 0.8\n\nworkshop,1\n")
    assert read_cutoffs(path) == {"kitchen": 0.8, "workshop": 1.0}
    assert TargetConfig(cutoffs=path).table() == {"kitchen": 0.8, "workshop": 1.0}
    assert TargetConfig().table() == published_cutoffs()


@pytest.mark.parametrize("row", ["kitchen", "kitchen,much", "kitchen,0", "kitchen,1.5", "kitchen,nan", "a,0.5\na,0.6"])
def test_a_bad_line_is_named(tmp_path: Path, row: str) -> None:
    path = _written(tmp_path, f"data_source,fraction\n{row}\n")
    with pytest.raises(CutoffError, match=rf"line {2 + row.count(chr(10))} of .*cutoffs\.csv"):
        read_cutoffs(path)


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(CutoffError, match="begins with 'source,share'"):
        read_cutoffs(_written(tmp_path, "source,share\nkitchen,0.8\n"))
    with pytest.raises(CutoffError, match=r"nowhere\.csv cannot be read"):
        read_cutoffs(tmp_path / "nowhere.csv")
