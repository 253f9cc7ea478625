"""Small whole models in folders, and `disca-rt generate` as it is called with them."""

from pathlib import Path

import small_parts

SIZE = ("--size", "64x48x5", "--steps", "2", "--shift", "5")
MAKERS = {
    "1.0": lambda: small_parts.pipeline_10(guidance_embeds=True),
    "1.5": small_parts.pipeline_15,
    "1.5 images": small_parts.pipeline_15_image,
}


def written(root: Path) -> dict[str, Path]:
    """A folder of diffusers' for each of `MAKERS`."""
    folders = {name: root / name.replace(" ", "-") for name in MAKERS}
    for name, folder in folders.items():
        MAKERS[name]().save_pretrained(folder)
    return folders


def generate(folder: object, *words: object, prompt: str = "a cat") -> list[str]:
    """The words of a command with `folder` as the model, of a small size unless one is given."""
    size = () if "--size" in words else SIZE
    return [str(word) for word in ("generate", prompt, "--model", folder, *size, *words)]


def linked(folder: Path, root: Path, *without: str, **swapped: Path) -> Path:
    """A folder with the parts of another: less those `without`, and the swapped ones from there."""
    root.mkdir(exist_ok=True)
    for part in folder.iterdir():
        if part.name not in without and part.name not in swapped:
            (root / part.name).symlink_to(part)
    for name, part in swapped.items():
        (root / name).symlink_to(part)
    return root
