"""Conversation templates: messages become text with trained character spans, then tokens and labels."""
