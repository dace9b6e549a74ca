"""Anthropic's interface, /v1/messages: its bodies become chats, answers its blocks and events."""
