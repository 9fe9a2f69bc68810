"""``robometer-rl data`` from its words."""

import subprocess
import sys
from dataclasses import MISSING, fields

import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.formats.table import IMPORTED
from robometer_rl.video import write_video


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    lines = []
    for number in range(3):
        write_video(folder / f"{number}.mp4", [np.full((16, 16, 3), 9 * step, np.uint8) for step in range(20)], fps=10)
        lines.append(f'{{"video": "{number}.mp4", "task": "open the drawer", "quality": "successful"}}\n')
    (folder / "videos.jsonl").write_text(
        "".join(lines) + '{"video": "no.mp4", "task": "open it", "quality": "failure"}\n'
    )
    return folder


def test_from_a_folder_of_videos_to_a_store_that_is_looked_at(videos, tmp_path, capsys):
    store = str(tmp_path / "store")
    assert main(["data", "import", "videos", str(videos), store, "--max-frames", "5", "--data-source", "mine"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 imported, 0 already there, 1 unreadable" in said
    assert "imported: 3 successful" in said
    assert f"next: robometer-rl data inspect {tmp_path / 'store'} draws a contact sheet" in said
    assert (tmp_path / "store" / "unreadable.jsonl").is_file()
    assert {len(run) for run in TrajectoryStore.open(store)} == {5}
    assert main(["data", "import", "videos", str(videos), store, "--max-frames", "5", "--data-source", "mine"]) == 0
    assert "0 imported, 3 already there, 1 unreadable" in capsys.readouterr().out
    assert main(["data", "inspect", store]) == 0
    assert "mine (3)" in capsys.readouterr().out
    assert main(["data", "verify", store]) == 0
    assert main(["data", "push", store, "someone/drawers", "--dry-run"]) == 0


def test_videos_may_stay_videos(videos, tmp_path):
    assert main(["data", "import", "videos", str(videos), str(tmp_path / "store"), "--keep-videos"]) == 0
    assert len(list((tmp_path / "store" / "videos").iterdir())) == 1, "the three have the same content"
    assert [run.frames[:].shape for run in TrajectoryStore.open(tmp_path / "store")] == [(20, 16, 16, 3)] * 3


def test_errors_are_one_line(tmp_path, capsys):
    assert main(["data", "inspect", str(tmp_path / "nowhere")]) == 2
    assert main(["data", "import", "videos", str(tmp_path / "nowhere"), str(tmp_path / "store")]) == 2
    inspect, importing = capsys.readouterr().err.splitlines()
    assert inspect.startswith("robometer-rl data: there is no store of trajectories at")
    assert importing.startswith("robometer-rl data: ")
    assert "nowhere" in importing
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "words", [["data"], ["data", "exports"], ["data", "export"], ["data", "import"], ["data", "import", "hdf6"]]
)
def test_words_that_are_no_command_are_answered_with_the_choice(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert any(choice in text for choice in ("videos", "inspect", "rbm"))


@pytest.mark.parametrize("name", sorted(IMPORTED))
def test_every_format_has_options_that_can_be_read(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "import", name, "--help"])
    assert stop.value.code == 0
    assert "STORE" in capsys.readouterr().out
    config = IMPORTED[name].config
    required = [each.name for each in fields(config) if each.default is MISSING and each.default_factory is MISSING]
    assert required == ["path"], "what must be given stands before the store, by position"


def test_help_imports_no_reader():
    code = """
import sys
from robometer_rl.cli import main
try:
    main(["data", "import", "--help"])
except SystemExit:
    pass
print(sorted({"h5py", "av", "pyarrow", "minari", "datasets", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
