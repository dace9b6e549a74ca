"""OpenAI's protocol and nothing else: fields, prompts, replies, streams."""
