"""Conversation templates: messages become text with trained spans, then tokens and labels."""
