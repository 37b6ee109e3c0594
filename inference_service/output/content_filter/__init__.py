"""The content filter: rules from a file, asked about prompts and about output before it leaves."""
