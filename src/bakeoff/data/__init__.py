"""A file becomes examples, and examples become token ids."""
