"""Tokenizers and the image processor, each as the model was trained with it, and checked.

A byte-level tokenizer.json is taken whole (`PreTrainedTokenizerFast`): `LlamaTokenizer` of
transformers 5 would put its own rules in the place of the file's, and ids would change silently.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..family import FAMILIES, VIDEO_10, VIDEO_15, Family
from ..weights.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from transformers import ByT5Tokenizer, CLIPTokenizer, PreTrainedTokenizerBase

# The tokens by which a family's tokenizer is known; the templates are written with them.
MARKS: dict[Family, tuple[str, ...]] = {
    VIDEO_10.name: ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    VIDEO_15.name: ("<|im_start|>", "<|im_end|>"),
}
CLIP_MARKS = ("<|startoftext|>", "<|endoftext|>")
SPACED = "two  blanks\n\na line"
SIGLIP_SIDE = 384  # of so400m-patch14-384


def load_tokenizer(path: Path, family: Family) -> "PreTrainedTokenizerBase":
    """The tokenizer of the language model of `family`, padding on the right.

    Raises CheckpointError where it is another model's or loses blanks.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    has_file = (path / "tokenizer.json").is_file()
    is_qwen = family == VIDEO_15.name
    if not has_file and not (is_qwen and (path / "vocab.json").is_file()):
        raise CheckpointError(f"{path} holds no tokenizer.json; put the model's there")
    kind = PreTrainedTokenizerFast if has_file else Qwen2Tokenizer
    tokenizer = _read(kind, path, padding_side="right")
    _check_marks(tokenizer, MARKS[family], path, FAMILIES[family].title)
    ids = tokenizer(SPACED, add_special_tokens=False)["input_ids"]
    said = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if said != SPACED:
        raise CheckpointError(
            f"{path} is a tokenizer that loses blanks: {SPACED!r} becomes {said!r}; put the "
            "model's own tokenizer.json there"
        )
    return tokenizer


def load_clip_tokenizer(path: Path) -> "CLIPTokenizer":
    """The tokenizer of CLIP-L; CheckpointError where it is another model's."""
    from transformers import CLIPTokenizer

    tokenizer = _read(CLIPTokenizer, path)
    _check_marks(tokenizer, CLIP_MARKS, path, "CLIP")
    return tokenizer


def load_byt5_tokenizer() -> "ByT5Tokenizer":
    """The tokenizer of byT5: bytes, no file."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def load_image_processor(path: Path | None) -> Any:
    """SigLIP's processor, resizing with PIL as the authors' version does, 384 pixels by default."""
    import transformers

    names = ("SiglipImageProcessorPil", "SiglipImageProcessor")  # 5.x, and before, of PIL both
    kind = next(getattr(transformers, name) for name in names if hasattr(transformers, name))
    if path is None:
        return kind(size={"height": SIGLIP_SIDE, "width": SIGLIP_SIDE})
    return _read(kind, path)


def _read(kind: Any, path: Path, **settings: Any) -> Any:
    try:
        return kind.from_pretrained(str(path), local_files_only=True, **settings)
    except Exception as error:  # each library has its own
        raise CheckpointError(
            f"{path} cannot be read as a {kind.__name__} ({first_line(error)}); put the model's "
            "own files there"
        ) from error


def _check_marks(
    tokenizer: "PreTrainedTokenizerBase", marks: tuple[str, ...], path: Path, whose: str
) -> None:
    known = tokenizer.get_vocab()
    if absent := [mark for mark in marks if mark not in known]:
        raise CheckpointError(
            f"{path} is not the tokenizer of {whose}: it does not know {', '.join(absent)}; put "
            "the model's own there"
        )
