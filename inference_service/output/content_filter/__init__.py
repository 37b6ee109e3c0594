"""The content filter: checks prompts and output against rules from a file, before output is sent."""
