"""OpenAI's newer route, /v1/responses: its bodies become chats, answers its items and events."""
