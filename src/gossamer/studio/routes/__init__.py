"""Routes by OpenAI's paths: files, uploads, jobs with events and checkpoints, models, sessions."""
