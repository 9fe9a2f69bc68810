"""Hostile files: code in pickles and models, names that lead out, bombs, markup, addresses, and what is waited for."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from fuzzing.trying import LARGEST

Spoil = Callable[[Path], None]
"""Makes a trap of the sound example at a path; what it must not touch is in ``outside`` beside it."""

MARKER: Final = "marker"
"""A file beside the example that code in a trap makes."""

OUTSIDE: Final = "outside"
SECRETS: Final = ("secret.mp4", "secret.png", "secret.zip", "secret.npz", "secret.hdf5", "secret.json",
                  "secret.safetensors", "secret.txt")  # fmt: skip

EVIL: Final = (
    "[red]x[/x] [link=http://h]y[/link] :smile: <script>alert(1)</script> <img src=x onerror=alert(1)> ![a](http://h/) "
    "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202e `c` | $1 %{pts} '\"& \r"
)
"""What would be markup on a terminal, a page, a card or a command line of ffmpeg."""

EVIL_NAME: Final = EVIL.replace("/", "!")[:200]
"""The same as the name of a file."""


def make_secrets(folder: Path) -> None:
    """What lies outside of every example, one file for every door."""
    import h5py
    from safetensors.numpy import save_file

    from fuzzing.kinds import frames
    from robometer_rl.video import write_video

    folder.mkdir()
    pictures = frames()
    write_video(folder / "secret.mp4", pictures, fps=10)
    Image.fromarray(pictures[0]).save(folder / "secret.png")
    np.savez(folder / "secret.npz", frames=pictures)
    with zipfile.ZipFile(folder / "secret.zip", "w") as archive:
        for number, picture in enumerate(pictures):
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "png")
            archive.writestr(f"{number:06d}.png", content.getvalue())
    with h5py.File(folder / "secret.hdf5", "w") as file:
        file["pictures"] = pictures
    save_file({"secret": pictures}, folder / "secret.safetensors")
    (folder / "secret.json").write_text('{"start": "secret", "data": {}, "options": {}, "metrics": {}, "protocol": 1}')
    (folder / "secret.txt").write_text("secret\n")


class _Call:
    """Pickles to a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._made = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._made


def payload(path: Path) -> _Call:
    """Something that makes the marker beside ``path`` when it is unpickled."""
    return _Call(os.system, f"touch {_marker(path)}")


def _marker(path: Path) -> Path:
    """Beside the example, whichever of its files ``path`` is."""
    here = path.absolute()
    while not (here.parent / OUTSIDE).is_dir():
        here = here.parent
    return here.parent / MARKER


def one(path: Path, pattern: str) -> Path:
    """The first file of an example that fits."""
    return path if path.is_file() else sorted(path.glob(pattern))[0]


# Code.


def pickled(path: Path) -> None:
    """A pickle that calls."""
    path.write_bytes(pickle.dumps(payload(path)))


def pickled_in_buffer(path: Path) -> None:
    """A sound buffer with something in it that calls."""
    buffer = pickle.loads(path.read_bytes())
    buffer.extra = payload(path)
    path.write_bytes(pickle.dumps(buffer))


def pickled_by_numpy(path: Path) -> None:
    """A function of numpy that runs text as a program."""
    code = f"import os; os.system('touch {_marker(path)}')"
    path.write_bytes(b"cnumpy.testing._private.utils\nrunstring\n(V" + code.encode() + b"\n}tR.")


def pickled_by_gymnasium(path: Path) -> None:
    """A function of Gymnasium that finds any other."""
    loader = b"cgymnasium.envs.registration\nload_env_creator\n(Vposix:system\ntR"
    path.write_bytes(loader + f"(Vtouch {_marker(path)}\ntR.".encode())


def pickled_array(pattern: str) -> Spoil:
    """Frames that are Python objects."""

    def spoil(path: Path) -> None:
        file = one(path, pattern)
        with np.load(file) as arrays:
            found = dict(arrays)
        np.savez(file, **found | {"frames": np.array([payload(path)], object)})  # type: ignore[arg-type]

    return spoil


def pickled_weights(name: str, *gone: str) -> Spoil:
    """Weights in a pickle in the place of others."""

    def spoil(path: Path) -> None:
        import torch

        for each in gone:
            (path / each).unlink()
        torch.save(payload(path), path / name)

    return spoil


def pickled_save(name: str) -> Spoil:
    """A file of the last save of a training that calls."""

    def spoil(path: Path) -> None:
        import torch

        for save in path.glob("run/joint/saves/checkpoint-*"):
            torch.save(payload(path), save / name)

    return spoil


def pickled_type(pattern: str, is_stream: bool) -> Spoil:
    """An Arrow type that older releases of Arrow unpickled when they met it."""

    def spoil(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = one(path, pattern)
        if is_stream:
            with pa.ipc.open_stream(file.read_bytes()) as reader:
                table = reader.read_all()
        else:
            table = pq.read_table(file)
        notes = {
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(payload(path)),
        }
        fields = [
            table.schema.field(0).with_metadata(notes),
            *(table.schema.field(n) for n in range(1, table.num_columns)),
        ]
        table = table.cast(pa.schema(fields, table.schema.metadata))
        if is_stream:
            with pa.ipc.new_stream(str(file), table.schema) as writer:
                writer.write_table(table)
        else:
            pq.write_table(table, file)

    return spoil


def model_code(name: str, *classes: str) -> Spoil:
    """Python files beside a model, which its settings ask to be run."""

    def spoil(path: Path) -> None:
        (path / "evil.py").write_text(f"import os\nos.system('touch {_marker(path)}')\nclass Evil: pass\n")
        settings = json.loads((path / name).read_text()) if (path / name).exists() else {}
        settings["auto_map"] = {
            each: ["evil.Evil", "evil.Evil"] if "Token" in each else "evil.Evil" for each in classes
        }
        settings |= {f"{each.removeprefix('Auto').lower()}_class": "Evil" for each in classes}
        settings["trust_remote_code"] = True
        (path / name).write_text(json.dumps(settings))

    return spoil


def language_model_code(path: Path) -> None:
    """A Qwen3-VL in the place of a checkpoint, with a tokenizer of its own."""
    from safetensors.numpy import load_file, save_file

    from fuzzing.kinds import FIXTURES

    state = {key: tensor for key, tensor in load_file(path / "model.safetensors").items() if key.startswith("model.")}
    shutil.rmtree(path)
    shutil.copytree(FIXTURES / "robometer_tiny" / "base_processor", path)
    save_file(state, path / "model.safetensors")
    model_code("tokenizer_config.json", "AutoTokenizer")(path)


def yaml_code(name: str) -> Spoil:
    """A tag of YAML that calls."""

    def spoil(path: Path) -> None:
        file = path / name if name else path
        with file.open("a") as end:
            end.write(f'evil: !!python/object/apply:os.system ["touch {_marker(path)}"]\n')

    return spoil


def text(name: str, content: str) -> Spoil:
    """A file of the example, or the example itself, with another text."""

    def spoil(path: Path) -> None:
        (path / name if name else path).write_text(content.replace("{marker}", str(_marker(path))))

    return spoil


# Names that lead out.


def replaced(pattern: str, old: str, new: str) -> Spoil:
    """Other words in a text file; ``{folder}`` in them is where the example is."""

    def spoil(path: Path) -> None:
        file = one(path, pattern)
        content = file.read_text()
        if old not in content:
            raise ValueError(f"{file} has no {old!r}")
        new_content = content.replace(old, new.replace("{folder}", str(path.parent)))
        file.write_text(new_content.replace("PORT", os.environ["FUZZ_PORT"]))

    return spoil


def row(sealed: bool = False, **values: Any) -> Spoil:
    """Other values in the rows of a store, with the checksums that they need; ``frames_*`` are about the frame file."""

    def spoil(path: Path) -> None:
        from dataclasses import replace

        from robometer_rl.data.rows import Row, _checksum
        from robometer_rl.data.store import TrajectoryStore

        named = {name: str(value).replace("{folder}", str(path.parent)) if isinstance(value, str) else value
                 for name, value in values.items()}  # fmt: skip
        places = {name.removeprefix("frames_"): value for name, value in named.items() if name.startswith("frames_")}
        plain = {name: value for name, value in named.items() if not name.startswith("frames_")}
        for file in path.glob("rows/*.json"):
            old = Row.from_json(file.read_text())
            frames, new = replace(old.frames, **places), dict(old.values) | plain
            file.write_bytes(Row(new, frames, _checksum(new, frames)).to_json())
        if sealed:
            TrajectoryStore.open(path).seal()

    return spoil


def linked(pattern: str, target: str, is_absolute: bool = False) -> Spoil:
    """A link out in the place of a file or folder of the example."""

    def spoil(path: Path) -> None:
        file = one(path, pattern) if path.is_dir() else path
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        outside = path.parent / target
        file.symlink_to(outside if is_absolute else os.path.relpath(outside, file.parent))

    return spoil


def beside(name: str, target: str) -> Spoil:
    """A link out beside the example."""
    return lambda path: (path.parent / name).symlink_to(target)


def hdf5_link(kind: str) -> Spoil:
    """Pictures that are kept elsewhere."""

    def spoil(path: Path) -> None:
        import h5py

        with h5py.File(path, "r+") as file:
            demonstrations: Any = file["data"]
            pictures = demonstrations[sorted(demonstrations)[0]]["obs"]
            name = sorted(key for key in pictures if "rgb" in key or "image" in key)[0]
            shape, dtype = pictures[name].shape, pictures[name].dtype
            del pictures[name]
            secret = "../outside/secret.hdf5" if kind != "absolute" else str(path.parent / "outside" / "secret.hdf5")
            if kind == "values":
                place = [(str(path.parent / "outside" / "secret.txt"), 0, int(np.prod(shape)))]
                pictures.create_dataset(name, shape, dtype, external=place)
            elif kind == "virtual":
                layout = h5py.VirtualLayout(shape, dtype)
                layout[0] = h5py.VirtualSource(secret, "pictures", shape=shape)[0]
                pictures.create_virtual_dataset(name, layout)
            else:
                pictures[name] = h5py.ExternalLink(secret, "/pictures")

    return spoil


def tar_member(name: str, link: str = "", size: int | None = None) -> Spoil:
    """A member of an archive that would be unpacked to elsewhere, leads elsewhere, or claims to be huge."""

    def spoil(path: Path) -> None:
        archive = one(path, "observations/*/*.tar")
        member = tarfile.TarInfo(name.replace("{folder}", str(path.parent)))
        content = (path.parent / OUTSIDE / "secret.mp4").read_bytes()
        if link:
            member.type, member.linkname = tarfile.SYMTYPE, link
        else:
            member.size = len(content) if size is None else size
        archive.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + (b"" if link else content) + bytes(4096))

    return spoil


def zip_member(pattern: str, name: str) -> Spoil:
    """A member of an archive that is called otherwise than it should."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(one(path, pattern), "a") as archive:
            archive.writestr(name, b"\x93NUMPY\x01\x00")

    return spoil


def alias_bomb(name: str) -> Spoil:
    """Aliases of aliases of aliases in front of a document."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    def spoil(path: Path) -> None:
        file = path / name if name else path
        file.write_text("\n".join(lines) + "\n" + file.read_text())

    return spoil


def content(pattern: str, make: Callable[[], bytes]) -> Spoil:
    """Other bytes in a file of the example."""

    def spoil(path: Path) -> None:
        one(path, pattern).write_bytes(make())

    return spoil


def png(width: int, height: int, data: bytes = b"", *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey image with compressed rows ``data``, which may be fewer than it claims."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data or zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def zeros(count: int) -> bytes:
    """So many zeros, compressed."""
    packer, piece = zlib.compressobj(9), bytes(1 << 24)
    return b"".join(packer.compress(piece) for _ in range(count >> 24)) + packer.flush()


def text_chunk_bomb() -> bytes:
    """A small image with a comment of a gigabyte."""
    return png(8, 8, zlib.compress(bytes(72)), (b"zTXt", b"Comment\0\0" + zeros(1 << 30)))


def large_png() -> bytes:
    """400 million grey pixels, in 400 kB."""
    return png(20_000, 20_000, zeros(20_001 * 20_000))


def large_gif() -> bytes:
    """A GIF of 65,535 times 65,535 pixels."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
        + bytes(6)
        + (b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x44\x01\x00" + b"\x3b")
    )


def large_jpeg() -> bytes:
    """A JPEG of 65,500 times 65,500 pixels."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(stream, "jpeg")
    content = bytearray(stream.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 65500, 65500)
    return bytes(content)


def large_webp() -> bytes:
    """A WebP of 16,384 times 16,384 pixels."""
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16383).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def large_bmp() -> bytes:
    """A BMP of more pixels than any memory holds."""
    return (
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**30, 1, 24, *[0] * 6)
    )


def npz(shape: tuple[int, ...], packed: int = 0) -> Callable[[], bytes]:
    """An archive with an array of a claimed shape that has so many zeros."""

    def make() -> bytes:
        stream, header = io.BytesIO(), io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with (
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("frames.npy", "w", force_zip64=True) as member,
        ):
            member.write(header.getvalue())
            for _ in range(packed >> 24):
                member.write(bytes(1 << 24))
        return stream.getvalue()

    return make


def zip_of_large_images(path: Path) -> None:
    """Frames of a store that unpack to far more than their rows say, with checksums that fit."""
    from robometer_rl.data.frame_files import file_sha256

    image = png(32, 32, zeros(1 << 30))
    for archive in path.glob("frames/*.zip"):
        with zipfile.ZipFile(archive) as old:
            names = old.namelist()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
            for name in names:
                new.writestr(name, image)
    row(frames_sha256=file_sha256(next(path.glob("frames/*.zip"))))(path)


def long_table(pattern: str, rows: int) -> Spoil:
    """A table whose columns repeat their first value so often that it takes no room in the file."""

    def spoil(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = one(path, pattern)
        old = pq.read_table(file)
        columns = {}
        for name in old.column_names:
            value = old[name].combine_chunks()[:1]
            index = pa.array(np.zeros(rows, np.int32))
            if pa.types.is_primitive(value.type):
                columns[name] = value.take(index)
        with pq.ParquetWriter(file, pa.table(columns).schema) as writer:
            writer.write_table(pa.table(columns))

    return spoil


def long_hdf5(name: str, rows: int) -> Spoil:
    """Pictures that are not there, and read as zeros."""

    def spoil(path: Path) -> None:
        import h5py

        with h5py.File(path, "r+") as file:
            demonstrations: Any = file["data"]
            pictures = demonstrations[sorted(demonstrations)[0]]["obs"]
            shape = (rows, *pictures[name].shape[1:])
            del pictures[name]
            pictures.create_dataset(name, shape, "u1", chunks=(1, *shape[1:]), compression="gzip")

    return spoil


def late_frame(path: Path) -> None:
    """A video of three frames, the last of them after a year."""
    import av

    path.unlink()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        for pts in (0, 1, 10 * 86400 * 365):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def safetensors(header: dict[str, Any] | None, length: int | None = None) -> Callable[[], bytes]:
    """Weights whose header claims what is not there."""

    def make() -> bytes:
        body = json.dumps(header).encode()
        return struct.pack("<Q", len(body) if length is None else length) + body + bytes(64)

    return make


def json_value(pattern: str, **values: Any) -> Spoil:
    """Other values in an object of JSON, or in one within it (``a__b``)."""

    def spoil(path: Path) -> None:
        file = one(path, pattern)
        document = json.loads(file.read_text())
        for name, value in values.items():
            *parents, last = name.split("__")
            place = document
            for parent in parents:
                place = place[parent]
            place[last] = value
        file.write_text(json.dumps(document))

    return spoil


def sparse(pattern: str) -> Spoil:
    """A file that goes on with zeros for ever, as far as anybody has memory."""
    return lambda path: os.truncate(one(path, pattern), LARGEST - 1)


def playlist(form: str) -> Spoil:
    """A list of other files and addresses that is called a video; PORT is that of a server that nobody may call."""
    forms = {
        "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
        "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
        "mpd": '<?xml version="1.0"?>\n<!DOCTYPE m [<!ENTITY x SYSTEM "{target}">]>\n'
        '<MPD type="static" '
        'mediaPresentationDuration="PT1S"><Period><AdaptationSet><Representation id="1" bandwidth="1">'
        "<BaseURL>{target}</BaseURL>&x;</Representation></AdaptationSet></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video PORT RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
    }
    kind, _, where = form.partition(" ")

    def spoil(path: Path) -> None:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in (".mp4", ".png")]
        secret = "secret.png" if files[0].suffix == ".png" else "secret.mp4"
        target = {"file": f"{path.parent}/outside/{secret}", "http": "http://127.0.0.1:PORT/x"}[where or "file"]
        for file in files:
            content = forms[kind].replace("{target}", target)
            file.write_text(content.replace("PORT", os.environ["FUZZ_PORT"]))

    return spoil


# What is waited for, or never ends.


def in_place(suffix: str, make: Spoil) -> Spoil:
    """Something else in the place of the first file that ends so."""

    def spoil(path: Path) -> None:
        file = path if path.is_file() else sorted(file for file in path.rglob(f"*{suffix}") if file.is_file())[0]
        file.unlink()
        make(file)

    return spoil


def pipe(path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def endless(path: Path) -> None:
    """A link to a device that goes on for ever."""
    path.symlink_to("/dev/zero")
