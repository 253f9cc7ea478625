"""Tokenizers and the image processor, each as the model was trained with it.

A byte-level tokenizer.json is taken whole (`PreTrainedTokenizerFast`): `LlamaTokenizer` of
transformers 5 would put its own rules in the place of the file's, and ids would change silently.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..family import FAMILIES, VIDEO_10, VIDEO_15, Family
from ..weights.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Family -> file -> the tokenizer that takes it; the first that is there.
TOKENIZERS: dict[Family, tuple[tuple[str, str], ...]] = {
    VIDEO_10.name: (("tokenizer.json", "PreTrainedTokenizerFast"),),
    VIDEO_15.name: (
        ("tokenizer.json", "PreTrainedTokenizerFast"),
        ("vocab.json", "Qwen2Tokenizer"),
    ),
}
# Family -> processor and its settings, of SigLIP so400m-patch14-384, of LLaVA's CLIP at 336 pixels.
PROCESSORS: dict[Family, tuple[str, dict[str, Any]]] = {
    VIDEO_10.name: ("CLIPImageProcessor", {"size": {"shortest_edge": 336}, "crop_size": 336}),
    VIDEO_15.name: ("SiglipImageProcessor", {"size": {"height": 384, "width": 384}}),
}


def load_tokenizer(path: Path, family: Family) -> "PreTrainedTokenizerBase":
    """The tokenizer of the language model of `family`, padding on the right.

    Whether it is that model's own is checked by `encoders.prompts`. CheckpointError without files.
    """
    import transformers

    for file, name in TOKENIZERS[family]:
        if (path / file).is_file():
            return _read(getattr(transformers, name), path, padding_side="right")
    raise CheckpointError(f"{path} holds no tokenizer.json; put the model's there")


def load_second_tokenizer(path: Path | None, family: Family) -> "PreTrainedTokenizerBase":
    """The tokenizer of the second text encoder: CLIP's, or byT5's, which takes bytes and no file.

    CheckpointError where files of CLIP's are not there.
    """
    import transformers

    if FAMILIES[family].has_glyphs or path is None:
        return transformers.ByT5Tokenizer()
    kind = getattr(transformers, "CLIPTokenizerFast", transformers.CLIPTokenizer)  # 4.x has both
    return _read(kind, path)


def load_image_processor(path: Path | None, family: Family) -> Any:
    """SigLIP's processor, or of 1.0 CLIP's, resizing with PIL as the authors' version does.

    `path` None: as the published models have it.
    """
    import transformers

    name, settings = PROCESSORS[family]
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)  # 5.x, 4.x
    return kind(**settings) if path is None else _read(kind, path)


def _read(kind: Any, path: Path, **settings: Any) -> Any:
    try:
        return kind.from_pretrained(str(path), local_files_only=True, **settings)
    except Exception as error:  # each library has its own
        raise CheckpointError(
            f"{path} cannot be read as a {kind.__name__} ({first_line(error)}); put the model's "
            "own files there"
        ) from error
