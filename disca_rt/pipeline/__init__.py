"""Pipeline: one owner of models and stages, from a request to latents and video."""
