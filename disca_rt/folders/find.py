"""`find_model`: from a folder, a file or a Hub reference to the parts of a model.

Reads names, headers and configurations, and fetches what is on the Hub; loads no weights.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from ..config import DiTConfig, PredictorConfig
from ..weights.checkpoint import open_checkpoint
from ..weights.errors import CheckpointError
from ..weights.hub import exists, fetch_files, parse_reference, resolve
from ..weights.identify import identify
from .evidence import TRANSFORMER_FOLDERS, Clues, read_clues
from .files import Files
from .layouts.choose import is_of_model, recognise
from .layouts.found import Found, Wish
from .layouts.official_10 import START as MODEL_FOLDER
from .parts import ModelFolder, Part, PartName
from .settings import settle

ALONE = "alone"  # the layout of parts that were named one by one
EXTRAS = ("model_index.json", "guider/guider_config.json")
LAYOUTS_IN_WORDS = (
    "diffusers' (model_index.json, transformer/), Tencent's of 1.0 (hunyuan-video-t2v-720p/) and "
    "1.5 (transformer/<variant>/), ComfyUI's (diffusion_models/, text_encoders/, vae/)"
)


class Place(NamedTuple):
    """A folder or file that was opened; `found` is None where it is no folder of a model.

    `label` is what people call it.
    """

    root: Path
    found: Found | None
    label: str


def find_model(
    source: str | Path,
    *,
    variant: str | None = None,
    dit: str | Path | None = None,
    predictor: str | Path | None = None,
    parts: Collection[PartName] | None = None,
) -> ModelFolder:
    """The parts of a model in `source`: a folder in any layout, a DiT alone, or a Hub reference.

    `variant` names one of several DiTs there; where there is one, a row of settings. `dit` and
    `predictor`, each a file, a folder or a Hub reference, take the place of the folder's. From the
    Hub only `parts` are fetched, by default all of them. Raises ValueError (CheckpointError for
    weights), one line, where it is no model's folder or its parts do not belong together.
    """
    named = {"dit": dit, "predictor": predictor}
    given = {name: resolve(each) for name, each in named.items() if each is not None}
    own = _config("dit", given["dit"]) if "dit" in given else None
    place = _open(source, Wish(variant, frozenset(given), own and own.family), parts)
    if place.found is None and own is None:
        given = {"dit": place.root, **given}
    found = place.found or Found(ALONE, {}, {})
    there = _parts(place.root, found, given)
    config = own or (_config("dit", there["dit"].path) if "dit" in there else None)
    if "predictor" in there:
        _check_predictor(there["predictor"].path, config)
    label = place.label if dit is None else _label(dit)
    seen = read_clues(Clues(place.root, label, found, there, config, variant))
    return ModelFolder(
        root=place.root,
        layout=found.layout,
        family=seen.family,
        task=seen.task,
        parts=there,
        settings=settle(seen),
        config=config,
        places=found.places,
    )


def _open(source: str | Path, wish: Wish, parts: Collection[PartName] | None) -> Place:
    is_text = isinstance(source, str) and not exists(source)
    reference = parse_reference(source) if is_text else None
    if reference is None:
        root = _whole(resolve(source))
        files = Files.under(root, is_of_model)
        found = recognise(files, wish) if root.is_dir() else None
        if found is None and root.is_dir() and not wish.has_dit:
            _refuse_nothing(root, files)
        return Place(root, found, _label(root))
    listed: list[Found] = []

    def choose(names: list[str]) -> list[str]:
        files = Files.of(names)
        listed.extend(filter(None, [recognise(files, wish)]))
        return [name for found in listed for name in _needed(files, found, parts)]

    root = fetch_files(reference, source, choose)
    label = f"{reference.repo}/{reference.inside}"
    return Place(root, listed[0], label) if listed else Place(resolve(source), None, label)


def _whole(root: Path) -> Path:
    """The folder of all parts, where `root` is that of Tencent's DiT and VAE of 1.0 alone."""
    is_inner = root.name.startswith(MODEL_FOLDER) and (root / "transformers").is_dir()
    return root.parent if is_inner else root


def _needed(files: Files, found: Found, parts: Collection[PartName] | None) -> list[str]:
    """Names of the files to fetch: those of the wanted parts, and the folder's index and guider."""
    wanted = [place for name, place in found.parts.items() if parts is None or name in parts]
    extras = [name for name in EXTRAS if name in files.names]
    return extras + [name for place in wanted for name in files.needed(place)]


def _refuse_nothing(root: Path, files: Files) -> None:
    """Raise CheckpointError for a folder which is no model's, and has not even a DiT."""
    if not any(map(files.holds_weights, ("", *TRANSFORMER_FOLDERS))):
        raise CheckpointError(
            f"{root} is no folder of a model in a layout known here: {LAYOUTS_IN_WORDS}; give such "
            "a folder, or a DiT"
        )


def _label(source: str | Path) -> str:
    """Name of a folder, or of the folder of a file; a reference to the Hub as it is written.

    A folder `transformer` and a snapshot of the Hub, whose name is a number, have those above too.
    """
    if not exists(source):
        return str(source)
    root = Path(source).absolute()
    root = root.parent if root.is_file() else root
    kept = 2 if root.name in TRANSFORMER_FOLDERS else 3 if root.parent.name == "snapshots" else 1
    return "/".join(root.parts[-kept:])


def _parts(root: Path, found: Found, given: Mapping[str, Path]) -> dict[PartName, Part]:
    there = {
        name: Part(name, root / place, found.layout)
        for name, place in found.parts.items()
        if (root / place).exists()  # of the Hub not all may have been fetched
    }
    return there | {name: Part(name, path, ALONE) for name, path in given.items()}


def _config(name: str, path: Path) -> DiTConfig:
    """The sizes of the DiT at `path`, by its header."""
    config = identify(open_checkpoint(path)).config
    if not isinstance(config, DiTConfig):
        raise CheckpointError(f"{path} is a DisCa predictor, not a DiT; give it as the predictor")
    return config


def _check_predictor(path: Path, dit: DiTConfig | None) -> None:
    config = identify(open_checkpoint(path)).config
    if not isinstance(config, PredictorConfig):
        raise CheckpointError(f"{path} is a DiT, not a DisCa predictor; give it as the dit")
    if dit is not None and (differing := config.differences(dit)):
        raise CheckpointError(
            f"{path} is a predictor for another model: {', '.join(differing)}; give one that was "
            f"trained with this {dit.traits.title} DiT"
        )
