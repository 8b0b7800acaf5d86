"""Commented sample configurations."""
