"""OpenAI's files and fine-tuning API on our server, the page, and who is logged in there."""
