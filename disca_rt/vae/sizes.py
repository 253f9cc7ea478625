"""Video sizes that a model takes, and the latents they become.

The rules belong to the codec, not to the DiT. These are HunyuanVideo's causal VAEs: 4× in time, so
frames are 4n+1; 8× (1.0, with 2×2 patches) or 16× (1.5) in space, so sides divide by 16.
"""

from dataclasses import dataclass

from ..family import VIDEO_10, VIDEO_15, Family

TIME_FACTOR = 4
SIDE_MULTIPLE = 16


@dataclass(frozen=True)
class VideoSizes:
    """Size rules of one VAE: `latent_channels`, pixels per latent along each side, and frames.

    Sides are multiples of `side_multiple`: of a latent, or of the DiT's patch of them.
    """

    latent_channels: int
    side_factor: int
    time_factor: int = TIME_FACTOR
    side_multiple: int = SIDE_MULTIPLE

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape (C, T, H, W) of the latents; ValueError names an illegal size and its way out."""
        if frames < 1 or frames % self.time_factor != 1:
            low = max(1, (frames - 1) // self.time_factor * self.time_factor + 1)
            nearest = f"nearest are {low} and {low + self.time_factor}"
            raise ValueError(f"frames must be {self.time_factor}n+1, got {frames}; {nearest}")
        for name, side in (("height", height), ("width", width)):
            if side < self.side_multiple or side % self.side_multiple:
                low = max(self.side_multiple, side // self.side_multiple * self.side_multiple)
                raise ValueError(
                    f"{name} must be a multiple of {self.side_multiple}, got {side}; "
                    f"nearest are {low} and {low + self.side_multiple}"
                )
        return (
            self.latent_channels,
            (frames - 1) // self.time_factor + 1,
            height // self.side_factor,
            width // self.side_factor,
        )

    def video_size(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """Size (frames, height, width) of latents (T, H, W)."""
        return self.time_factor * (t - 1) + 1, h * self.side_factor, w * self.side_factor


def sizes_of(
    family: Family, latent_channels: int, side_factor: int, time_factor: int
) -> VideoSizes:
    """Size rules of a family's VAE with channels and factors of its own."""
    usual = SIZES[family]
    multiple = side_factor * usual.side_multiple // usual.side_factor
    return VideoSizes(latent_channels, side_factor, time_factor, multiple)


SIZES: dict[str, VideoSizes] = {
    VIDEO_10.name: VideoSizes(latent_channels=16, side_factor=8),
    VIDEO_15.name: VideoSizes(latent_channels=32, side_factor=16),
}
