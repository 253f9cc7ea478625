"""The denoising loop: from noise to clean latents, one step after another."""
