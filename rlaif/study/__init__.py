"""The swap study: the same prompts and pairs, labelled by several sources, and whether it made a difference."""
