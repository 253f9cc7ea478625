"""Defaults of a whole model's sample, where a user does not say: its variant's settings."""

from typing import TYPE_CHECKING, Any

from .load import Facts

if TYPE_CHECKING:
    from ..folders.settings import Settings

Picture = Any
"""Anything that `images.read_image` reads."""


def fields_of(facts: Facts, has_predictor: bool, given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a `Request`: the `given` ones, and for those left out the settings of the folder.

    A DiT alone has no settings: then the given ones are all.
    """
    if facts.folder is None:
        return given
    settings, fields = facts.folder.settings, dict(given)
    if fields.get("policy") is None:
        usual = "disca" if has_predictor else "full"
        fields["policy"] = usual if fields.get("edit") is None else "edit"
    if fields.get("schedule") is None:
        fields["schedule"] = settings.schedule()
    sized = "size", "latent_shape", "latents", "edit"
    if all(fields.get(name) is None for name in sized):
        fields["size"] = default_size(facts, fields.get("image"))
    names = "guidance_scale", "classifier_free_scale"
    named, mixing = (fields.pop(name, None) for name in names)
    return {**fields, **scales(settings, named, mixing)}


def default_size(facts: Facts, picture: Picture | None) -> tuple[int, int, int]:
    """(frames, height, width): the variant's, or that which the rules give to the picture."""
    folder = facts.folder
    frames, height, width = folder.settings.size
    rule, base = facts.rules.pictures[folder.family].bucket, folder.settings.bucket
    if picture is not None and base is not None and rule is not None:
        from ..vae.buckets import STRIDES, bucket
        from .images import read_image

        image = read_image(picture)
        height, width = bucket(image.height, image.width, base, STRIDES[folder.family], rule)
    return frames, height, width


def scales(
    settings: "Settings", named: float | None, mixing: float | None, is_guided: bool = True
) -> dict[str, float | None]:
    """Embedded and classifier-free scale: `named` and `mixing`, else the variant's own.

    `named` is the embedded one where the DiT takes one, else the classifier-free one. Without
    `is_guided` a DiT that embeds none runs one pass.
    """
    if settings.embedded_scale is not None:
        named = settings.embedded_scale if named is None else named
        mixing = settings.classifier_free_scale if mixing is None else mixing
    elif named is None and mixing is None and is_guided:
        mixing = settings.classifier_free_scale
    return {"guidance_scale": named, "classifier_free_scale": mixing}
