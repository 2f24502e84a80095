"""The commands, typed in a shell; run_search.py puts them together."""
