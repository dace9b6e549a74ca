"""What is shown of files, jobs, events and checkpoints: OpenAI's objects, from rows and runs."""
