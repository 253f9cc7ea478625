"""Between latents and pixels: which video sizes there are, and the codecs of both models."""
