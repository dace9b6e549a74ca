"""The pages that the code writes, one module each with `page() -> str`."""
