"""Turns files into examples, and examples into token ids."""
