"""Whisper, speech to text: log-mel, encoder, greedy decoder with a cache; after openai/whisper."""
