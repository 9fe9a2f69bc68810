"""Security probes: traps for every door through which files and texts of other people come in.

A probe spoils a sound example, gives it to a command, and looks at what must not have happened: code that ran, files
outside that were opened or made, calls over the network, memory that grew, and markup that got through.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuzzing import traps
from fuzzing.checks import digest, torn
from fuzzing.kinds import KINDS, TASK, TINY, TRAINING, words
from fuzzing.traps import EVIL, EVIL_NAME, MARKER, OUTSIDE, Spoil
from fuzzing.trying import Outcome, attempt, attempt_call
from fuzzing.watching import Watch, resident_bytes, watching

if TYPE_CHECKING:
    from fuzzing.attack import Attack

MOST_MEMORY: Final = 1 << 30  # bytes more than the program has before it begins
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ELEMENTS: Final = re.compile(r"<script>alert|<img src=x")


@dataclass(frozen=True)
class Probe:
    """A trap and the command that is led into it.

    Attributes:
        kind: The sound example.
        spoil: Makes a trap of it; None if the command line is the trap.
        command: ``@`` stands for the example, ``%`` for a new path to write to, ``&`` for the folder of both, PORT for
            the server that nobody may call; the first command of the kind if empty.
        is_refused: Whether the command has to end with an error; otherwise it may as well pass the trap by.
        may_run: Whether code of the trap may run, because the user has said so.
        makes: What the command may make beside ``%``, by the beginning of its name.
    """

    kind: str
    spoil: Spoil | None = None
    command: tuple[str, ...] = ()
    is_refused: bool = False
    may_run: bool = False
    makes: tuple[str, ...] = ()


def attack_probes(attack: Attack) -> None:
    """Every trap once."""
    secrets = attack.folder / "secrets"
    if not secrets.exists():
        outcome = attempt_call(lambda: traps.make_secrets(secrets), ("make the secrets",), attack.folder)
        if outcome.problem:
            raise RuntimeError(f"the secrets could not be made: {outcome.output}")
    names = attack.chosen(list(PROBES))
    for name in attack.some(names):
        _attack_probe(attack, name, PROBES[name], secrets)


def _attack_probe(attack: Attack, name: str, probe: Probe, secrets: Path) -> None:
    folder = attack.trial("probes", re.sub(r"\W+", "_", name), 0)
    shutil.copytree(secrets, folder / OUTSIDE)
    source = attack.example(probe.kind)
    path = folder / source.name
    shutil.copytree(source, path) if source.is_dir() else shutil.copy2(source, path)
    with watching(folder / OUTSIDE) as watch:
        environment = {"HOME": str(folder / "home"), "FUZZ_PORT": str(watch.port)}
        spoil = probe.spoil
        if spoil is not None:
            made = attempt_call(lambda: spoil(path), ("spoil", name), folder, None, **environment)
            if made.code != 0:
                attack.judge("probes", name, made, folder, {"exit code": "the trap could not be made"})
                return
            (folder / "printed.txt").unlink()
        line = [
            word.replace("&", str(folder)).replace("PORT", str(watch.port))
            for word in words(probe.command or KINDS[probe.kind].commands[0], path, folder / "out")
        ]
        line = attack.filled(line)
        copied = frozenset(digest(path).values()) if _size(path) < MOST_MEMORY else frozenset()
        outside, there = digest(folder / OUTSIDE), {entry.name for entry in folder.iterdir()}
        watch.opened()
        before = resident_bytes()
        outcome = attempt(line, folder, None, **environment)
        breaches = list(_breaches(probe, folder, outcome, watch, outcome.memory - before))
    if digest(folder / OUTSIDE) != outside:
        breaches.append("a file outside was changed")
    new = {entry.name for entry in folder.iterdir()} - there - {MARKER}
    allowed = ("out", "printed.txt", "home", f"{source.name}-contact-sheet.png", *probe.makes)
    if strange := sorted(entry for entry in new if not entry.startswith(allowed)):
        breaches.append(f"it made {strange}")
    harm = {"breach": "; ".join(breaches)} if breaches else {}
    written = [entry for entry in folder.glob("out*") if entry.suffix != ".journal"]
    problems = [problem for entry in written for problem in torn(entry, copied)]
    attack.judge("probes", name, outcome, folder, harm | ({"torn": "; ".join(problems)} if problems else {}))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files)


def _breaches(probe: Probe, folder: Path, outcome: Outcome, watch: Watch, grown: int) -> Iterator[str]:
    """What has happened and must not."""
    if (folder / MARKER).exists() and not probe.may_run:
        yield "code of the trap ran"
    if opened := watch.opened():
        yield f"it opened {', '.join(Path(name).name for name in opened)} outside"
    if watch.was_called():
        yield "it called a server"
    if grown > MOST_MEMORY:
        yield f"it took {grown / 1e9:.1f} GB of memory"
    if probe.is_refused and outcome.code == 0:
        yield "it did not refuse the trap"
    if found := _CONTROLS.search(outcome.output):
        yield f"the terminal was sent {found[0]!r}"
    for written in folder.glob("out*"):
        pages = [written] if written.is_file() else sorted(written.rglob("*"))
        for page in pages:
            text = page.read_text() if page.suffix in (".html", ".md") and page.is_file() else ""
            if found := _ELEMENTS.search(text) or _CONTROLS.search(text):
                yield f"{page.name} contains {found[0]!r}"
    if "README.md" in outcome.output and (found := _ELEMENTS.search(outcome.output)):
        yield f"the card contains {found[0]!r}"


def _score(*options: str) -> tuple[str, ...]:
    return ("score", "@", *TASK, *TINY, "--out", "%", *options)


def _address(text: str) -> Probe:
    return Probe("mp4", None, ("score", text, *TASK, *TINY, "--out", "%"), is_refused=True)


RELABEL: Final = ("relabel", "@", *TINY, *TASK, "--output", "%")
TRUSTED: Final = (*RELABEL, "--trust-pickle")
SCORE_MODEL: Final = ("score", "{npz}", *TASK, "--model", "@", "--out", "%")
PUBLISH: Final = ("publish", "@", "me/robometer", "--dry-run")
VERIFY: Final = ("data", "verify", "@")
INSPECT: Final = ("data", "inspect", "@", "--output", "%.png")
IMPORT: Final = ("data", "import", "store", "@", "%")
PUSH: Final = ("data", "push", "@", "me/store", "--dry-run")
EVALUATE: Final = ("evaluate", str(TINY[1]), "@", "--split", "train", "--output", "%.json")
TRAIN_FROM: Final = (*TRAINING, "--start", "@", "--data", "{store}", "--output", "%")
RECIPE: Final = ("train", "@", "--data", "{store}", "--output", "%")

CODE: Final = {
    "pickle": Probe("SB3 buffer", traps.pickled, is_refused=True),
    "pickle in a buffer": Probe("SB3 buffer", traps.pickled_in_buffer, is_refused=True),
    "pickle that numpy runs": Probe("SB3 buffer", traps.pickled_by_numpy, is_refused=True),
    "pickle that gymnasium runs": Probe("SB3 buffer", traps.pickled_by_gymnasium, is_refused=True),
    "trusted pickle": Probe("SB3 buffer", traps.pickled, TRUSTED, may_run=True),
    "trusted pickle in a buffer": Probe("SB3 buffer", traps.pickled_in_buffer, TRUSTED, may_run=True),
    "trust is not for arrays": Probe("npz episodes", traps.pickled_array("*.npz"), TRUSTED),
    "pickled array to score": Probe("npz", traps.pickled_array(""), is_refused=True),
    "pickled array to relabel": Probe("npz episodes", traps.pickled_array("*.npz")),
    "pickled weights": Probe(
        "checkpoint", traps.pickled_weights("pytorch_model.bin", "model.safetensors"), SCORE_MODEL, is_refused=True
    ),
    "pickled weights beside sound ones": Probe("checkpoint", traps.pickled_weights("pytorch_model.bin"), SCORE_MODEL),
    "pickled adapter": Probe("LoRA checkpoint", traps.pickled_weights("adapter_model.bin"), SCORE_MODEL),
    "pickled arguments": Probe("interrupted training", traps.pickled_save("training_args.bin")),
    "pickled optimizer": Probe("interrupted training", traps.pickled_save("optimizer.pt"), is_refused=True),
    "pickled scheduler": Probe("interrupted training", traps.pickled_save("scheduler.pt"), is_refused=True),
    "pickled random numbers": Probe("interrupted training", traps.pickled_save("rng_state.pth"), is_refused=True),
    "pickled type in a store": Probe("sealed store", traps.pickled_type("rows.arrow", True), VERIFY),
    "pickled type in LeRobot": Probe("LeRobot v3.0", traps.pickled_type("data/*/*.parquet", False)),
    "code of a tokenizer": Probe("checkpoint", traps.model_code("tokenizer_config.json", "AutoTokenizer"), SCORE_MODEL),
    "code of a model": Probe("checkpoint", traps.model_code("config.json", "AutoConfig", "AutoModel"), SCORE_MODEL),
    "code of a preprocessor": Probe(
        "checkpoint", traps.model_code("preprocessor_config.json", "AutoImageProcessor", "AutoProcessor"), SCORE_MODEL
    ),
    "code of a processor": Probe("checkpoint", traps.model_code("processor_config.json", "AutoProcessor"), SCORE_MODEL),
    "code of a start": Probe("checkpoint", traps.model_code("tokenizer_config.json", "AutoTokenizer"), TRAIN_FROM),
    "code of a language model": Probe("checkpoint", traps.language_model_code, TRAIN_FROM),
    "code of what is published": Probe("checkpoint", traps.model_code("config.json", "AutoModel"), PUBLISH),
    "YAML that calls": Probe("checkpoint", traps.yaml_code("config.yaml"), SCORE_MODEL, is_refused=True),
    "recipe that calls": Probe("recipe", traps.yaml_code(""), RECIPE, is_refused=True),
    "template that calls": Probe(
        "checkpoint",
        traps.text("chat_template.jinja", "{{ cycler.__init__.__globals__.os.system('touch {marker}') }}"),
        SCORE_MODEL,
    ),
    "template without end": Probe(
        "checkpoint", traps.text("chat_template.jinja", "{% for i in range(10**15) %}x{% endfor %}"), SCORE_MODEL
    ),
    "environment of Minari": Probe(
        "Minari HDF5",
        traps.json_value("data/metadata.json", env_spec='{"id": "x-v0", "entry_point": "posix:system", "kwargs": {}}'),
    ),
}

NAMES: Final = {
    **{
        f"row that names {file}{' (sealed)' * sealed}": Probe(
            "store", traps.row(sealed=sealed, frames_file=file), VERIFY, is_refused=True
        )
        for file in ("../outside/secret.zip", "frames/../../outside/secret.zip", "{folder}/outside/secret.zip")
        for sealed in (False, True)
    },
    "row that is imported": Probe("store", traps.row(frames_file="../outside/secret.zip"), IMPORT, is_refused=True),
    "row that is inspected": Probe("store", traps.row(frames_file="../outside/secret.zip"), INSPECT),
    "row that is evaluated": Probe("store", traps.row(frames_file="../outside/secret.zip"), EVALUATE, is_refused=True),
    "linked frames": Probe("store", traps.linked("frames/*.zip", "outside/secret.zip"), VERIFY, is_refused=True),
    "linked folder of frames": Probe("store", traps.linked("frames", "outside"), VERIFY, is_refused=True),
    "linked frames to upload": Probe(
        "store", traps.linked("frames/*.zip", "outside/secret.zip"), PUSH, is_refused=True
    ),
    "linked rows to upload": Probe(
        "sealed store", traps.linked("rows.arrow", "outside/secret.txt"), PUSH, is_refused=True
    ),
    "linked videos": Probe(
        "store of videos", traps.linked("videos/*.mp4", "outside/secret.mp4"), VERIFY, is_refused=True
    ),
    "shard elsewhere": Probe(
        "sharded checkpoint",
        traps.replaced("model.safetensors.index.json", "model-00001-of-00002", "../outside/secret"),
        SCORE_MODEL,
        is_refused=True,
    ),
    "shard at an absolute path": Probe(
        "sharded checkpoint",
        traps.replaced("model.safetensors.index.json", "model-00001-of-00002", "{folder}/outside/secret"),
        SCORE_MODEL,
        is_refused=True,
    ),
    "linked shard": Probe(
        "sharded checkpoint",
        traps.linked("model-00001*", "outside/secret.safetensors"),
        SCORE_MODEL,
        is_refused=True,
    ),
    "linked file to publish": Probe(
        "checkpoint", traps.linked("merges.txt", "outside/secret.txt"), PUBLISH, is_refused=True
    ),
    **{
        f"listed video {name!r} to {command[0]}": Probe(
            "listed videos", traps.replaced("videos.jsonl", "take 0.mp4", name), command
        )
        for command in (("data", "import", "videos", "@", "%"), RELABEL)
        for name in (
            "../outside/secret.mp4",
            "{folder}/outside/secret.mp4",
            "file://{folder}/outside/secret.mp4",
            "http://127.0.0.1:PORT/a.mp4",
            "concat:../outside/secret.mp4",
            "-y.mp4",
            "a\\u0000.mp4",
        )
    },
    "listed video that is a link": Probe("listed videos", traps.linked("take 0.mp4", "outside/secret.mp4")),
    "listed video to relabel": Probe("listed videos", traps.linked("take 0.mp4", "outside/secret.mp4"), RELABEL),
    "RoboReward's video elsewhere": Probe(
        "RoboReward", traps.replaced("train/metadata.jsonl", "a.mp4", "../../outside/secret.mp4"), is_refused=True
    ),
    "LeRobot's tables elsewhere": Probe(
        "LeRobot v3.0", traps.json_value("meta/info.json", data_path="../outside/secret.json"), is_refused=True
    ),
    "LeRobot's videos elsewhere": Probe(
        "LeRobot v3.0", traps.json_value("meta/info.json", video_path="../outside/secret.mp4"), is_refused=True
    ),
    "LeRobot's template that looks around": Probe(
        "LeRobot v3.0",
        traps.json_value("meta/info.json", video_path="{video_key.__class__.__mro__[1].__subclasses__}"),
        is_refused=True,
    ),
    "LeRobot's template that is wide": Probe(
        "LeRobot v3.0", traps.json_value("meta/info.json", data_path="{chunk_index:2000000000d}"), is_refused=True
    ),
    "linked table": Probe("LeRobot v3.0", traps.linked("data/*/*.parquet", "outside/secret.npz")),
    "linked video of LeRobot": Probe("LeRobot v3.0", traps.linked("videos/*top/*/*.mp4", "outside/secret.mp4")),
    **{
        f"HDF5 with {kind} pictures": Probe("LIBERO HDF5", traps.hdf5_link(kind), command, is_refused=True)
        for kind in ("relative", "absolute", "values", "virtual")
        for command in [("relabel", "@", *TINY, "--cameras", "agentview_rgb", "--output", "%")]
    },
    "HDF5 of elsewhere to import": Probe("LIBERO HDF5", traps.hdf5_link("relative"), is_refused=True),
    **{
        f"archive with {name!r}{f' to {link}' if link else ''}": Probe("AgiBot", traps.tar_member(name, link))
        for name, link in (
            ("../../../outside/videos/head_color.mp4", ""),
            ("{folder}/outside/videos/head_color.mp4", ""),
            ("648642/videos/head_color.mp4", "../../../../outside/secret.mp4"),
        )
    },
    "archive of arrays with a way out": Probe("npz", traps.zip_member("", "../outside/evil.npy")),
    "episode with a way out": Probe("npz episodes", traps.zip_member("*.npz", "../outside/evil.npy")),
    "linked image": Probe("png folder", traps.linked("frame0.png", "outside/secret.png"), _score()),
    "linked episode": Probe("npz episodes", traps.linked("000.npz", "outside/secret.npz")),
    "journal that is a link": Probe("npz episodes", traps.beside("out.journal", "outside/secret.txt")),
    "hidden folder that is a link": Probe("npz episodes", traps.beside(".out.partial", OUTSIDE)),
}

BOMBS: Final = {
    "aliases in a checkpoint": Probe("checkpoint", traps.alias_bomb("config.yaml"), SCORE_MODEL, is_refused=True),
    "aliases in a recipe": Probe("recipe", traps.alias_bomb(""), RECIPE, is_refused=True),
    **{
        f"deep JSON in {name}": Probe(kind, traps.text(name, "[" * 200_000 + "]" * 200_000), is_refused=True)
        for kind, name in (
            ("LeRobot v3.0", "meta/info.json"),
            ("Minari HDF5", "data/metadata.json"),
            ("reward", ""),
            ("evaluation", ""),
        )
    },
    "deep JSON in a checkpoint": Probe(
        "checkpoint", traps.text("config.json", "[" * 200_000), SCORE_MODEL, is_refused=True
    ),
    **{
        f"sparse {pattern or kind}": Probe(kind, traps.sparse(pattern), command)
        for kind, pattern, command in (
            ("checkpoint", "config.yaml", SCORE_MODEL),
            ("checkpoint", "config.json", SCORE_MODEL),
            ("checkpoint", "tokenizer_config.json", SCORE_MODEL),
            ("recipe", "", RECIPE),
            ("reward", "", ()),
            ("evaluation", "", ()),
            ("listed videos", "videos.jsonl", ()),
            ("RoboReward", "train/metadata.jsonl", ()),
            ("AgiBot", "task_info/*.json", ()),
            ("LeRobot v3.0", "meta/info.json", ()),
            ("LeRobot v2.1", "meta/episodes.jsonl", ()),
            ("Minari HDF5", "data/metadata.json", ()),
            ("store", "store.json", VERIFY),
            ("store", "rows/*.json", VERIFY),
            ("png folder", "frame0.png", ()),
            ("gif", "", ()),
        )
    },
    "PNG of 10 gigapixels": Probe("png folder", traps.content("frame0.png", lambda: traps.png(100_000, 100_000))),
    "PNG of 400 megapixels": Probe("png folder", traps.content("frame0.png", traps.large_png), is_refused=True),
    "PNG with a large comment": Probe("png folder", traps.content("frame0.png", traps.text_chunk_bomb)),
    "large JPEG": Probe("jpeg folder", traps.content("frame0.jpg", traps.large_jpeg), is_refused=True),
    "large WebP": Probe("webp folder", traps.content("frame0.webp", traps.large_webp), is_refused=True),
    "large BMP": Probe("png folder", traps.content("frame0.png", traps.large_bmp), is_refused=True),
    "large GIF": Probe("gif", traps.content("", traps.large_gif), is_refused=True),
    "array of zeros": Probe("npz", traps.content("", traps.npz((1 << 18, 128, 128, 3), 1 << 28)), is_refused=True),
    "array that is not there": Probe("npz", traps.content("", traps.npz((1 << 40, 128, 128, 3))), is_refused=True),
    "episode that is not there": Probe("npz episodes", traps.content("000.npz", traps.npz((1 << 40, 128, 128, 3)))),
    "images of a store": Probe("store", traps.zip_of_large_images, VERIFY, is_refused=True),
    "images of a store to evaluate": Probe("store", traps.zip_of_large_images, EVALUATE, is_refused=True),
    "row of a huge shape": Probe("store", traps.row(frames_shape=(10**9, 10**5, 10**5, 3)), EVALUATE, is_refused=True),
    "row of a huge shape to inspect": Probe("store", traps.row(frames_shape=(10**9, 10**5, 10**5, 3)), INSPECT),
    "row of a huge shape to train": Probe(
        "store", traps.row(frames_shape=(10**9, 10**5, 10**5, 3)), (*TRAINING, "--data", "@", "--output", "%")
    ),
    "row with a long task": Probe("store", traps.row(task="open " * 10**6), EVALUATE),
    "long table": Probe("LeRobot v3.0", traps.long_table("data/*/*.parquet", 1 << 24)),
    "long list of episodes": Probe("LeRobot v3.0", traps.long_table("meta/episodes/*/*.parquet", 1 << 22)),
    "long HDF5": Probe("LIBERO HDF5", traps.long_hdf5("agentview_rgb", 10**8)),
    "long HDF5 to relabel": Probe(
        "LIBERO HDF5",
        traps.long_hdf5("agentview_rgb", 10**8),
        ("relabel", "@", *TINY, "--cameras", "agentview_rgb", "--output", "%"),
    ),
    "late frame": Probe("mp4", traps.late_frame),
    "late frame, thinned": Probe("mp4", traps.late_frame, _score("--fps", "4")),
    "huge member of an archive": Probe("AgiBot", traps.tar_member("648642/videos/head_color.mp4", size=1 << 50)),
    "tensors that are not there": Probe(
        "checkpoint",
        traps.content(
            "model.safetensors",
            traps.safetensors({"x": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}}),
        ),
        SCORE_MODEL,
        is_refused=True,
    ),
    "header that is not there": Probe(
        "checkpoint", traps.content("model.safetensors", traps.safetensors({}, 1 << 62)), SCORE_MODEL, is_refused=True
    ),
    **{
        f"checkpoint of huge {name}": Probe(
            "checkpoint",
            traps.json_value("config.json", **{f"text_config__{name}": value}),
            SCORE_MODEL,
            is_refused=True,
        )
        for name, value in (("num_hidden_layers", 10**9), ("hidden_size", 10**8), ("vocab_size", 10**12))
    },
    "pickle of many bytes": Probe(
        "SB3 buffer",
        traps.content("", lambda: b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x."),
        is_refused=True,
    ),
}

MARKUP: Final = {
    "task on the command line": Probe("npz", None, ("score", "@", "--task", EVIL, *TINY, "--out", "%")),
    "task in a store": Probe("store", traps.row(task=EVIL, skill=EVIL, source=EVIL), INSPECT),
    "data source in a store": Probe("store", traps.row(data_source=EVIL, split=EVIL), INSPECT),
    "split that is not there": Probe(
        "store", None, ("evaluate", str(TINY[1]), "@", "--split", EVIL, "--output", "%.json")
    ),
    "task that is evaluated": Probe("store", traps.row(task=EVIL), (*EVALUATE, "--by", "task")),
    "task that is uploaded": Probe("store", traps.row(task=EVIL), ("data", "push", "@", "me/store", "--dry-run")),
    "task of a report": Probe(
        "npz episodes", None, ("relabel", "@", *TINY, "--task", EVIL, "--output", "%", "--report", "--verify")
    ),
    "record of a published model": Probe(
        "checkpoint",
        traps.text(
            "training.json",
            '{"start": "<script>alert(1)</script>", "options": {"pretraining": {"steps": 1}, '
            '"frozen": {"steps": 1}, "joint": {"steps": 1}, "seed": 0, "lora": {"rank": 0, "part": ""}}, "data": '
            '{"<img src=x onerror=alert(1)> | \\u001b[2J": {"tasks": 1, "frames": 1, "episodes": {"a|b": 1}}}}',
        ),
        PUBLISH,
    ),
    "evaluation of a published model": Probe(
        "evaluation",
        traps.text(
            "",
            '{"metrics": {"<script>alert(1)</script> | \\u001b[2J": {"value": 1, "low": 0, "high": 1, "count": 1,'
            ' "undefined": 0}}, "protocol": "<img src=x>", "every": 1, "episodes": {"\\u001b[2J": 1}}',
        ),
    ),
    "name of a file that is not there": Probe(
        "npz", None, ("score", f"&/{EVIL_NAME}.mp4", *TASK, *TINY, "--out", "%"), True
    ),
    "name of an output": Probe("npz", None, ("score", "@", *TASK, *TINY, "--out", f"&/out{EVIL_NAME}"), makes=("out",)),
    "name of a listed video": Probe(
        "listed videos", traps.replaced("videos.jsonl", "take 0.mp4", "[red]\\u001b[2J<script>alert(1)</script>.mp4")
    ),
    "task of LeRobot": Probe(
        "LeRobot v2.1", traps.replaced("meta/tasks.jsonl", '"task": "', '"task": "[/x]\\u001b[2J ')
    ),
    "key of a recipe": Probe("recipe", traps.text("", '"[red]\\e[2J": 1\n"a\\u202Eb": 2\n'), RECIPE, is_refused=True),
    "setting of a checkpoint": Probe(
        "checkpoint", traps.text("config.yaml", 'model: {progress_loss_type: "[/x]\\e[2J"}\n'), SCORE_MODEL
    ),
    "member of an archive": Probe("npz episodes", traps.zip_member("*.npz", "[red]\x1b[2J.npy")),
    "Hub id": Probe("sealed store", None, ("data", "push", "@", "me/[red]\x1b[2J", "--dry-run"), is_refused=True),
    "option": Probe("npz", None, ("score", "@", f"--{EVIL}", "x"), is_refused=True),
}

ADDRESSES: Final = {
    **{
        f"recording at {text.partition(':')[0]}": _address(text)
        for text in (
            "http://127.0.0.1:PORT/a.mp4",
            "tcp://127.0.0.1:PORT/a.mp4",
            "rtmp://127.0.0.1:PORT/a.mp4",
            "rtsp://127.0.0.1:PORT/a.mp4",
            "ftp://127.0.0.1:PORT/a.mp4",
            "file://&/outside/secret.mp4",
            "concat:&/outside/secret.mp4|&/outside/secret.mp4",
            "subfile,,start,0,end,99,,:&/outside/secret.mp4",
            "crypto:&/outside/secret.mp4",
            "cache:&/outside/secret.mp4",
            "async:&/outside/secret.mp4",
            "pipe:0.mp4",
            "data:video/mp4;base64,AAAA.mp4",
            "lavfi:testsrc.mp4",
            "imageio:newtonscradle.gif",
            "fd:0.mp4",
        )
    },
    **{
        f"{form} called {kind}": Probe(kind, traps.playlist(form), is_refused=True)
        for form in ("m3u8 file", "m3u8 http", "ffconcat file", "mpd http", "sdp")
        for kind in ("mp4",)
    },
    "SVG called PNG": Probe("png folder", traps.playlist("svg file"), is_refused=True),
    "playlist in a data set": Probe("listed videos", traps.playlist("m3u8 http")),
    "playlist in LeRobot": Probe("LeRobot v3.0", traps.playlist("m3u8 file")),
    "model at an address": Probe(
        "npz", None, ("score", "@", *TASK, "--model", "http://127.0.0.1:1/m", "--out", "%"), True
    ),
    "recording -y": Probe("npz", None, ("score", "-y.mp4", *TASK, *TINY, "--out", "%"), is_refused=True),
    "output -y": Probe("npz", None, ("score", "@", *TASK, *TINY, "--out=-y"), makes=("-y",)),
    "output -i": Probe("mp4", None, ("score", "@", *TASK, *TINY, "--out=-i"), makes=("-i",)),
    "store -rf": Probe("listed videos", None, ("data", "import", "videos", "@", "./-rf"), makes=("-rf",)),
    "labels -y": Probe("npz episodes", None, ("relabel", "@", *TINY, *TASK, "--output=-y"), makes=("-y",)),
}


def _waiting() -> Iterator[tuple[str, Probe]]:
    """A pipe and an endless file in every place of every kind."""
    suffixes = {
        "mp4": ("",), "gif": ("",), "png folder": (".png",), "npz": ("",), "listed videos": (".mp4", ".jsonl"),
        "RoboReward": (".mp4", ".jsonl"), "AgiBot": (".tar", ".json"), "LIBERO HDF5": ("",),
        "Minari HDF5": (".hdf5", ".json"), "Minari Arrow": (".arrow", "metadata.json"),
        "LeRobot v2.1": (".mp4", ".parquet", "info.json", "episodes.jsonl", "tasks.jsonl"),
        "LeRobot v3.0": (".mp4", "data/chunk-000/file-000.parquet", "tasks.parquet", "info.json"),
        "LeRobot images": ("data/chunk-000/file-000.parquet",), "npz episodes": (".npz",), "SB3 buffer": ("",),
        "store": ("store.json", ".zip", "rows/*.json"), "sealed store": (".arrow",), "store of videos": (".mp4",),
        "checkpoint": (
            "config.json", "config.yaml", "tokenizer.json", "tokenizer_config.json", "merges.txt", ".safetensors",
            "preprocessor_config.json", ".jinja", "special_tokens_map.json",
        ),
        "sharded checkpoint": ("00001-of-00002.safetensors", ".index.json"), "recipe": ("",), "evaluation": ("",),
        "reward": ("",),
        "interrupted training": ("trainer_state.json", "optimizer.pt", "checkpoint-*/model.safetensors"),
        "interrupted relabelling": (".journal",),
    }  # fmt: skip
    for kind, places in suffixes.items():
        for place in places:
            for what, make in (("pipe", traps.pipe), ("endless", traps.endless)):
                yield f"{what}: {kind} {place}".strip(), Probe(kind, traps.in_place(place, make))


PROBES: Final[dict[str, Probe]] = {**CODE, **NAMES, **BOMBS, **MARKUP, **ADDRESSES, **dict(_waiting())}
"""By what the trap is."""
