"""Berth behind proxies that others make; `run.py` is the entry."""
