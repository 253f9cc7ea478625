"""Formats of other tools: refused by their names, before a file is said to be damaged."""

from pathlib import Path

from ..errors import CheckpointError

_WEIGHTS = "give the model's .safetensors or .pt"

# How files begin -> what they are, and the way out.
STARTS: dict[bytes, str] = {
    b"version https://git-lfs": (
        "a Git LFS pointer, not the weights; run `git lfs pull` where it came from"
    ),
    b"GGUF": f"a GGUF file, whose quantized blocks are not read; {_WEIGHTS} (bf16 or fp8)",
    b"\x89HDF": f"an HDF5 file, as Keras and TensorFlow write it, which is not read; {_WEIGHTS}",
    b"\x93NUMPY": f"a NumPy array, which is not read; {_WEIGHTS}",
    b"\x89PNG": f"a picture, not weights; {_WEIGHTS}",
    b"<": "a web page, not the weights; download it again: it may need a login",
}
ARCHIVES: dict[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\xfd7zXZ": ".xz",
    b"BZh": "bzip2",
}
START = 262  # bytes, by which all of them are known

# How names end -> what such files are.
ENDINGS: dict[str, str] = {
    ".gguf": "GGUF",
    ".distcp": "torch distributed checkpoint, which dcp_to_torch_save turns into a .pt",
    ".h5": "HDF5",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".engine": "TensorRT",
    ".tflite": "TensorFlow Lite",
    ".pb": "TensorFlow",
    **dict.fromkeys((".incomplete", ".part", ".crdownload"), "a download that has not ended"),
}
TEXT = frozenset(range(32, 127)) | frozenset(b"\t\n\r\f")


def refuse_other_formats(path: Path, start: bytes) -> None:
    """Raise CheckpointError for a file that begins with `start` if its format is another's."""
    if b"\0" in start[:8] and start[8:9] == b"{":  # the length of a .safetensors header, any number
        return
    is_text = all(byte in TEXT for byte in start[:24])
    words = start.lstrip() if is_text else start
    for magic, what in STARTS.items():
        if words.startswith(magic) and (is_text or magic != b"<"):
            raise CheckpointError(f"{path} is {what}")
    if start and is_text:
        first = words[:40].decode(errors="replace").partition("\n")[0]
        raise CheckpointError(f"{path} is text, not weights; it begins {first!r}; {_WEIGHTS}")
    archive = next((kind for magic, kind in ARCHIVES.items() if start.startswith(magic)), None)
    if start[257:262] == b"ustar":
        archive = "tar"
    if archive:
        raise CheckpointError(f"{path} is a {archive} archive; unpack it, and give what is in it")
    if path.suffix in ENDINGS and not start.startswith(b"PK"):
        raise CheckpointError(f"{path} is no checkpoint{others_among([path.name])}")


def others_among(names: list[str]) -> str:
    """Name the files of other formats among `names`; an empty text where there are none."""
    found = [
        f"{name} ({what})" for name in names for end, what in ENDINGS.items() if name.endswith(end)
    ]
    return f"; not read are {', '.join(found[:3])}" if found else ""
