"""The reference pages, one module each with `page() -> str`."""
