"""From what a user asks for to latents and video: the owner of the models and of their stages."""
