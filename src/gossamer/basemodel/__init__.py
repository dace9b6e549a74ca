"""Base models: find, fetch, load, and tell apart. Import from the modules; this one stays light."""
